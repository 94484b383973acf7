"""Do sources made for the data help? Pruned starts under a trained prior, and norm alignment in training (arXiv:2512.18184).

    python -m flowhelm.bench.quality.sources pruned --data fashion_mnist.npz --work bench
    python -m flowhelm.bench.quality.sources aligned --data fashion_mnist.npz --work bench

`pruned`: the bundled prior `fashion` by Euler steps, from a normal source and from `guide.pruned` at three strengths, the same streams; the
row that a sceptic asks for beside it is UniPC-2 from the normal source. `aligned`: two equal networks of 16 x 16 clothes, trained equally
long (about two minutes of one core together), one of them with `train.source.NormAligned`. Both print the Fréchet distance to test pictures
in features of the classifier of `bench.quality.classifier`, means over the seeds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ... import guide, sample
from ...flow import Flow, NetFlow
from ...guide.directions import reaches
from ...metrics import frechet_features
from ...path import linear
from ...priors.bundled import load
from ...priors.unet import UNet
from ...recipes.fashion import CLASSES
from ...rewards.classifier import scaled
from ...rng import Noise
from ...solve import integrate
from ...step import run as final
from ...train import fit, flow_matching, shuffled
from ...train.source import NormAligned, norm_ratio
from ..intervals import interval
from .classifier import classifier, whole

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
Told = Callable[[Tensor], Flow]
"""Labels `(n,)` to a prior that is told them."""
SHARES = (0.1, 0.3, 0.6)
"""Shares of the directions that are called empty, by how little of the data lies along them."""


@torch.no_grad()
def drawn(told: Told, labels: Tensor, steps: int, seed: int, by: str = "euler") -> Tensor:
    parts = []
    for index in torch.arange(len(labels)).split(100):
        flow = told(labels[index])
        noise = Noise(seed, index.tolist())
        walk = integrate if by == "euler" else sample.unipc
        parts.append(final(walk(flow, flow.source(noise), flow.times(steps))).clean)
    return torch.cat(parts)


def empty(clean: Tensor, share: float) -> tuple[guide.PrunedSource, float]:
    """The source pruned of so many directions, with its threshold; its limit is five times that, as in the paper."""
    reach = reaches(clean)[1].flatten().sort().values
    tau = float(reach[int(share * len(reach))])
    return guide.PrunedSource.fit(clean, tau, max(5 * tau, 2.2 / clean[0].numel() ** 0.5)), tau


@app.command()
def pruned(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the classifier, which is trained if it is not there")],
    samples: Annotated[int, typer.Option(min=20, help="of each cell")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="times that each is drawn")] = 3,
) -> None:
    """Euler steps from normal and from pruned starts."""
    torch.set_num_threads(1)
    parts, prior = whole("fashion", data, None), load("fashion")
    net = classifier("fashion", parts, work)
    real = net.judge(parts["test"][0])[0]
    labels = torch.arange(samples) % len(CLASSES)
    order = torch.randperm(len(parts["train"][0]), generator=torch.Generator().manual_seed(0))[:10000]
    clean = scaled(parts["train"][0][order])
    plain = lambda rows: prior.told(rows.tolist())  # noqa: E731
    ways: list[tuple[str, Told, str]] = [("normal source", plain, "euler")]
    for share in SHARES:
        start, tau = empty(torch.cat([clean, clean.flip(-1)]), share)
        rates = start.rates(300)
        name = (
            f"pruned, tau {tau:.3f}: {int(start.empty.sum())} directions, 1 in {1 / max(rates.plain, 1e-99):.1e} starts"
        )
        ways.append((name, partial(_pruned, plain, start), "euler"))
    ways.append(("normal source, UniPC-2", plain, "unipc"))
    _print((5, 10, 20), ways, labels, seeds, lambda x: float(frechet_features(net.judge(_byte(x))[0], real)))


@app.command()
def aligned(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the trainings and of the classifier")],
    samples: Annotated[int, typer.Option(min=20, help="of each cell")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="times that each is drawn")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="of a training")] = 1000,
) -> None:
    """Two trainings, with and without aligned norms."""
    torch.set_num_threads(1)
    parts = whole("fashion", data, None)
    net = classifier("fashion", parts, work)
    real = net.judge(parts["test"][0])[0]
    pictures, of = parts["train"]
    small = fn.avg_pool2d(pictures.float(), 2) / 127.5 - 1
    ratio = norm_ratio(small)
    rows = shuffled(small, of, batch=128, seed=0, flip=True)
    ways: list[tuple[str, Told, str]] = []
    for name, path in (("as they are", linear), (f"norms aligned, ratio {ratio:.3f}", NormAligned(ratio))):
        torch.manual_seed(0)
        flow = NetFlow(UNet((32, 64), channels=1, data_std=0.8, classes=len(CLASSES)), (1, 16, 16), path=path)
        file = work / f"sources_{'aligned' if path is not linear else 'plain'}.safetensors"
        average = copy.deepcopy(flow.net)
        for update in fit(
            flow,
            partial(flow_matching, drop=0.0),
            rows,
            steps=steps,
            average=average,
            rate=2e-3,
            warmup=50,
            ema=0.99,
            checkpoint=file,
            minutes=1,
        ):
            if update.index % 200 == 0:
                print(f"{name}: step {update.index} of {steps}", file=sys.stderr, flush=True)
        kept = NetFlow(average.eval().requires_grad_(False), flow.shape, path=path)
        ways.append((name, kept.bind, "euler"))
    up = lambda x: fn.interpolate(x, scale_factor=2.0)  # noqa: E731
    labels = torch.arange(samples) % len(CLASSES)
    _print((5, 10, 20, 40), ways, labels, seeds, lambda x: float(frechet_features(net.judge(_byte(up(x)))[0], real)))


def _pruned(plain: Told, start: guide.PrunedSource, labels: Tensor) -> Flow:
    return guide.pruned(plain(labels), start)


def _byte(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def _print(
    counts: tuple[int, ...], ways: list[tuple[str, Told, str]], labels: Tensor, seeds: int, judged: Callable[[Tensor], float]
) -> None:  # fmt: skip
    print("| source | " + " | ".join(f"{n} steps" for n in counts) + " |\n| --- |" + " --- |" * len(counts))

    def cells(told: Told, by: str) -> Iterator[str]:
        for n in counts:
            yield interval(judged(drawn(told, labels, n, seed, by)) for seed in range(seeds)).shown(2)

    for name, told, by in ways:
        print(f"| {name} | " + " | ".join(cells(told, by)) + " |", flush=True)


if __name__ == "__main__":
    app()
