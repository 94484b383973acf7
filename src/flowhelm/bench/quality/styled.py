"""A style adapter on top of a student: what is left of the style, and what of the student.

    python -m flowhelm.bench.quality.styled --data fashion_mnist.npz --work bench --student fashion-2

The style is clothes as outlines: a picture's greatest value in 3 x 3 pixels less its least. An adapter of `fashion` learns it by plain
training (rank 16, 300 updates of 32 rows), and is folded into the student, which never saw it. The teacher draws with guidance, by 20 steps
of UniPC; all draw from the same noise.

- Fréchet distance to the outlines of the test part and to its pictures, by the classifier of `bench.quality.classifier`.
- from the teacher: root mean square difference from what the teacher draws with the adapter, for the plain two from what it draws without.
- style kept: the share of the adapter's change of the teacher's pictures that it makes of the student's, <ds, dt> / <dt, dt>.

Means over samplings with 95 % intervals.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ... import guide
from ...metrics import frechet_features
from ...priors import adapters, bundled, distilled
from ...priors.unet import UNet
from ...recipes.fashion import whole
from ...recipes.recipe import preconditioned
from ...train import fit, flow_matching, shuffled
from ...train.times import logit_normal
from ..intervals import interval
from .students import FINE, Judge, drawn

ROWS, RANK = 32, 16


def outlines(pictures: Tensor) -> Tensor:
    """Pictures `(n, 1, h, w)` uint8 -> uint8: the greatest value of 3 x 3 pixels less the least."""
    x = pictures.float()
    most, least = fn.max_pool2d(x, 3, 1, 1), -fn.max_pool2d(-x, 3, 1, 1)
    return (most - least).byte()


def learned(base: bundled.Prior, parts: tuple[Tensor, Tensor], updates: int, path: Path) -> None:
    """Trains the adapter, and writes it."""
    flow = base.with_lora(RANK)
    pictures, labels = parts
    loss = partial(flow_matching, density=logit_normal(0.5, 1.4), weight=preconditioned(cast(UNet, base.net)), drop=0.1)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    data = shuffled(outlines(pictures[order]), labels[order], batch=ROWS, flip=True)
    for update in fit(flow, loss, data, steps=updates, warmup=updates // 10):
        if update.index % 50 == 0:
            typer.echo(f"adapter: update {update.index} of {updates}, loss {float(update.loss):.4f}", err=True)
    adapters.save(flow, path, {"method": "flow matching on outlines", "updates": updates})


@torch.no_grad()
def row(pictures: Tensor, judge: Judge, styled: Tensor, near: Tensor) -> tuple[float, float, float]:
    """Fréchet distances to the outlines and to the plain pictures, and the distance from the teacher's."""
    features, _ = judge.net.judge(pictures)
    apart = (pictures.float() - near.float()).div(127.5).square().mean().sqrt()
    return float(frechet_features(features, styled)), float(frechet_features(features, judge.real)), float(apart)


def kept(student: Tensor, with_it: Tensor, teacher: Tensor, wanted: Tensor) -> float:
    """The share of the teacher's change that is the student's, too."""
    ours, theirs = (with_it.double() - student.double()), (wanted.double() - teacher.double())
    return float((ours * theirs).sum() / theirs.square().sum())


def main(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the adapter and of the classifier's weights")],
    students: Annotated[
        list[str], typer.Option("--student", help="of fashion, by name or file; may be given several times")
    ],
    samples: Annotated[int, typer.Option(help="of each sampling; distances depend on it")] = 200,
    seeds: Annotated[int, typer.Option(help="times that each samples, from other noise")] = 2,
    updates: Annotated[int, typer.Option(help="of the adapter")] = 300,
) -> None:
    """Put a style onto students, and print what is left of either."""
    torch.set_num_threads(1)
    parts, base = whole(data), bundled.load("fashion")
    judge = Judge("fashion", data, work, samples)
    path = work / f"fashion_outlines_{updates}.safetensors"
    if not path.exists():
        learned(base, parts["train"], updates, path)
    weights = adapters.read(path).weights
    with torch.no_grad():
        styled, _ = judge.net.judge(outlines(parts["test"][0]))
    guidance = partial(guide.cfg, scale=base.scale)
    plain, changed = (replace(each, guidance=guidance) for each in (base, adapters.applied(base, path)))

    def pictures(flow: Any, solver: str, steps: int) -> list[Tensor]:
        return [drawn(flow, solver, steps, samples, seed)[0] for seed in range(seeds)]

    teacher, wanted = pictures(plain, "unipc", FINE), pictures(changed, "unipc", FINE)
    typer.echo("| drawn by | Fréchet to outlines | to clothes | from the teacher | style kept |")
    typer.echo("|" + " --- |" * 5)

    def said(name: str, found: list[Tensor], near: list[Tensor], share: list[float] | None = None) -> None:
        rows = [row(each, judge, styled, other) for each, other in zip(found, near, strict=True)]
        cells = [interval(column).shown(3) for column in zip(*rows, strict=True)]
        typer.echo(f"| {name} | " + " | ".join(cells) + f" | {interval(share).shown(2) if share else ''} |")

    said("the prior", teacher, teacher)
    said("the prior and the adapter", wanted, wanted)
    for name in students:
        flow = distilled.load(name)
        solver, steps = str(flow.about["solver"]), int(flow.about["calls"])
        alone = pictures(flow, solver, steps)
        both = pictures(flow.adapted(weights), solver, steps)
        share = [kept(*each) for each in zip(alone, both, teacher, wanted, strict=True)]
        label = flow.name if name == flow.name else Path(name).resolve().parent.name
        said(label, alone, teacher)
        said(f"{label}, and the adapter", both, wanted, share)


if __name__ == "__main__":
    typer.run(main)
