r"""Few-step students of a class-conditional prior: how near to its pictures, how varied, how fast; all trained for as long.

    python -m flowhelm.bench.quality.students run fashion --data fashion_mnist.npz --work bench --csv students.csv
    python -m flowhelm.bench.quality.students table students.csv

    python -m flowhelm.bench.quality.students run aerial --data rsscn7_128.zip --split split.json --work bench --csv aerial.csv \
        --methods teacher --calls 2 --student student.safetensors

Every method is given the same seconds of one core (`time.process_time`, so that other work on the machine does not count), the making of
its pairs included, the same adapter and the same rate; how many updates that buys is measured before. Rivals are the prior itself at 50
Euler steps and under UniPC-2 at the students' own number of calls: with guidance, of which a call is two, and without. A name that ends
in /lean trains an adapter of rank 3 and the head alone: under 5 % of the weights.

- Fréchet distance to the test part and accuracy: of the classifier of `bench.quality.classifier`, as in `bench.quality.generation`; the
  distance depends on the number of samples, and beside it stands that of as many training pictures.
- diversity: mean root mean square distance of two pictures of one class, as a share of that of real test pictures.
- distance: root mean square difference from the prior's own pictures of the same noise, 20 steps of UniPC.

`seeds` samples every student again from other noise, `trainings` trains it again with other seeds: intervals are over trainings where
there are several, else over samplings. `restore` puts students into a
restoration: PSNR at few calls. Rows are appended as they are finished; run the command again to go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import begin, guide, operators, restore, sample, simulate
from ...app.distil.problem import prepared
from ...app.distil.request import DistilRequest
from ...app.distil.run import distil
from ...app.draw.solvers import solver_of
from ...app.files.atomic import put
from ...app.run import drive, signals
from ...distil.reflow import begun
from ...flow import Flow
from ...flow_map import ahead
from ...metrics import frechet_features
from ...priors import distilled
from ...priors.bundled import Prior
from ...rewards.classifier import read
from ...rng import Noise
from ...step import run as ended
from ...train import fit
from .. import kept
from ..intervals import interval
from .classifier import classifier, whole

app = typer.Typer(help=__doc__, add_completion=False)
METHODS = (
    "arc_flow",
    "pi_flow",
    "free_flow",
    "mean_flow",
    "mdt_dist",
    "consistency",
    "reflow",
    "straighten",
    "flow_turbo",
)
ONCE = {"free_flow": 1, "mean_flow": 2, "mdt_dist": 2, "consistency": 2, "flow_turbo": 2}
"""Methods that train the same whatever the number of calls: they are trained once, under this number."""
RIVALS = ("teacher", "unipc")
LEAN = {"rank": 3, "way_up": False}
FINE = 20


@app.callback()
def _top() -> None:
    """Few-step students beside their teacher."""


def updates_within(request: DistilRequest, seconds: float) -> int:
    """How many updates so many seconds of one core buy: three are made, and a part of the pairs is drawn."""
    problem = prepared(request)
    pairs: list[Tensor] = []
    if problem.drawn:
        began = time.process_time()
        bound, x = begun(problem.teacher, range(8), 0)
        end = ended(sample.unipc(bound, x, bound.times(request.pair_steps))).x
        seconds -= (time.process_time() - began) / 8 * request.pairs
        many = math.ceil(request.rows / 8)
        pairs = [part.repeat(many, *[1] * (part.ndim - 1)) for part in (x, end, *bound.condition)]
    data, loss = problem.data(pairs), problem.loss()
    spent = []
    began = time.process_time()
    for _ in fit(problem.flow, loss, data, steps=4, rate=1e-6):
        spent.append(time.process_time() - began)
        began = time.process_time()
    return max(1, int(seconds / (sum(spent[1:]) / len(spent[1:]))))


def trained(
    name: str,
    method: str,
    calls: int,
    seconds: float,
    batch: int,
    seed: int,
    work: Path,
    data: Path | None,
    average: float,
) -> Path:
    """The student's file, distilled in `work` if it is not there; all seeds make as many updates as the first one was given.

    Args:
        data: what methods that read pictures read; None where the teacher draws them, 128 within the same seconds.
    """
    calls = ONCE.get(method, calls)
    stem = f"{name}-{method.replace('/', '-')}-{calls}-{seconds:g}s"
    out, (method, _, lean) = work / f"{stem}-{seed}", method.partition("/")
    wanted = DistilRequest(
        prior=name, method=method, steps=calls, seed=seed, out=out, pairs=128, rows=batch, threads=1, minutes=1.0, average=average,
        data=data if method in ("mean_flow", "mdt_dist", "consistency", "flow_turbo") else None,
    )  # fmt: skip
    wanted = wanted.changed(**LEAN) if lean else wanted
    told = work / f"{stem}.updates"
    if not told.exists():
        told.write_text(str(updates_within(wanted, seconds)))
    count = int(told.read_text())
    parts = {"updates": count - count // 3, "reflow_updates": count // 3} if method == "reflow" else {"updates": count}
    with signals():  # a run that is stopped goes on with the same command
        return drive(distil(wanted.changed(**parts)))


@torch.no_grad()
def drawn(flow: Any, solver: str, steps: int, rows: int, seed: int, batch: int = 50) -> tuple[Tensor, float]:
    """Pictures `(rows, c, h, w)` uint8, number i of class i modulo the classes, and seconds of one core for each."""
    parts, spent = [], 0.0
    make = solver_of(solver)
    for first in range(0, rows, batch):
        numbers = list(range(first, min(first + batch, rows)))
        bound = flow.told([i % len(flow.about["classes"]) for i in numbers], guidance=flow.guidance)
        noise = Noise(seed, numbers)
        x = bound.source(noise)
        began = time.process_time()
        end = ended(make(bound, x, bound.times(steps), noise=noise.named("solver"))).x
        spent += time.process_time() - began
        parts.append(((end.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(parts), spent / rows


def varied(pictures: Tensor, labels: Tensor) -> float:
    """Mean root mean square distance of two pictures of one class, over the classes."""
    flat, found = pictures.flatten(1).double() / 127.5, []
    for label in labels.unique():
        own = flat[labels == label]
        found.append(torch.pdist(own).mean() / flat.shape[1] ** 0.5)
    return float(torch.stack(found).mean())


class Judge:
    """The classifier and what real pictures say."""

    def __init__(self, name: str, data: Path, work: Path, count: int, split: Path | None = None):
        kept, real = work / f"{name}_classifier.safetensors", work / f"{name}_features.safetensors"
        if not (kept.exists() and real.exists()):
            parts = whole(name, data, split)
            net = read(kept) if kept.exists() else classifier(name, parts, work)
            test, labels = parts["test"]
            order = torch.randperm(len(parts["train"][0]), generator=torch.Generator().manual_seed(0))[:2000]
            found = {part: net.judge(each)[0] for part, each in (("test", test), ("train", parts["train"][0][order]))}
            found["spread"] = torch.tensor(varied(test[:2000], labels[:2000]))
            put(real, lambda temporary: save_file(found, temporary))
        self.net, stored = read(kept), load_file(real)
        self.real, self.spread = stored["test"], float(stored["spread"])
        self.reference = float(frechet_features(stored["train"][:count], self.real))

    def __call__(self, pictures: Tensor, told: Tensor) -> dict[str, str]:
        features, seen = self.net.judge(pictures)
        return {
            "frechet": f"{float(frechet_features(features, self.real)):.4f}",
            "reference": f"{self.reference:.4f}",
            "accuracy": f"{float((seen == told).double().mean()):.4f}",
            "diversity": f"{varied(pictures, told) / self.spread:.4f}",
        }


@app.command("run")
def run_(
    name: Annotated[str, typer.Argument(help="a bundled prior with classes: fashion, aerial, animals")],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder of the trainings and of the classifier's weights")],
    out: Annotated[Path, typer.Option("--csv", help="file, appended to")],
    methods: Annotated[
        str,
        typer.Option(help="with commas; 'teacher' for the rivals, 'unipc' for those of few calls; nothing for none"),
    ] = ",".join(("teacher", *METHODS)),
    calls: Annotated[str, typer.Option(help="of the students, with commas")] = "1,2,4",
    seconds: Annotated[float, typer.Option(help="of one core, for each training")] = 240.0,
    samples: Annotated[int, typer.Option(help="of each row; distances depend on it")] = 300,
    seeds: Annotated[int, typer.Option(help="times that each samples, from other noise")] = 2,
    batch: Annotated[int, typer.Option("--rows", help="of an update")] = 32,
    trainings: Annotated[int, typer.Option(help="times that each is trained")] = 1,
    average: Annotated[
        float, typer.Option(help="decay of the weights' moving average; less where few updates are made")
    ] = 0.99,
    files: Annotated[list[str] | None, typer.Option("--student", help="Measure this student, too.")] = None,
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
) -> None:
    """Train students for the same time, and measure them beside the prior."""
    torch.set_num_threads(1)
    base, judge = distilled.load(name), Judge(name, data, work, samples, split)
    told = torch.arange(samples) % len(base.about["classes"])
    rows = kept.stored(out)
    numbers = [int(n) for n in calls.split(",")]

    def measured(who: str, flow: Prior, solver: str, steps: int, spent: float, seed: int, training: int) -> None:
        key = {
            "prior": name, "method": who, "calls": str(steps), "samples": str(samples), "seed": str(seed), "training": str(training),
            "budget": f"{spent:g}",
        }  # fmt: skip
        if any(all(row[k] == v for k, v in key.items()) for row in rows):
            return
        pictures, cost = drawn(flow, solver, steps, samples, seed)
        row = key | judge(pictures, told) | {"seconds": f"{cost:.5f}"}
        rows.append(row)
        typer.echo(" ".join(f"{k}={v}" for k, v in row.items()))
        kept.append(out, row)

    guided = replace(base, guidance=partial(guide.cfg, scale=base.scale))
    for method in filter(None, methods.split(",")):
        for seed in range(seeds):
            if method in RIVALS:
                for count in numbers:
                    measured("UniPC-2, not guided", base, "unipc", count, 0, seed, 0)
                    if count > 1 and count % 2 == 0:
                        measured("UniPC-2, guided", guided, "unipc", count // 2, 0, seed, 0)
            if method == "teacher":
                measured("Euler, guided", guided, "euler", 50, 0, seed, 0)
        if method in RIVALS:
            continue
        for count in numbers if method != "free_flow" else [1]:
            for training in range(trainings):
                path = trained(name, method, count, seconds, batch, training, work, None if split else data, average)
                flow = distilled.load(path)
                own = replace(flow, guidance=guided.guidance) if method == "flow_turbo" else flow
                for seed in range(seeds):
                    measured(method, own, str(flow.about["solver"]), count, seconds, seed, training)
    for file in files or []:
        flow = distilled.load(file)
        for seed in range(seeds):
            measured(flow.name, flow, str(flow.about["solver"]), int(flow.about["calls"]), 0, seed, 0)


ROWS = {"UniPC-2, guided": 2, "Euler, guided": 2}
"""Rows of the network to a call of a guided prior; 1 for all else."""


@app.command()
def table(file: Annotated[Path, typer.Argument(help="CSV file of `run`")]) -> None:
    """The table by calls and distance: means with 95 % intervals, over trainings where there are several, else over samplings."""
    rows = kept.read(file)
    typer.echo("| drawn by | calls | Fréchet to test | training pictures | right class | diversity | ms a picture |")
    typer.echo("|" + " --- |" * 7)
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["calls"], row["samples"], row["budget"]), []).append(row)

    def order(key: tuple[str, ...]) -> tuple[int, int, float]:
        steps = int(key[1])
        asked = int(_turbo(steps).split()[0]) if key[0] == "flow_turbo" else steps * ROWS.get(key[0], 1)
        return int(key[2]), asked, fmean(_values(groups[key], "frechet"))

    for key in sorted(groups, key=order):
        own = groups[key]
        method, steps = key[0], int(key[1])
        count = _turbo(steps) if method == "flow_turbo" else f"{steps * ROWS.get(method, 1)}"
        cells = [method, count, *(_shown(_values(own, k), p) for k, p in _SHOWN)]
        typer.echo("| " + " | ".join(cells) + " |")


def _turbo(steps: int) -> str:
    """Rows of the guided network, and calls of the refiner, of `sample.flow_turbo` as it stands."""
    light = round(steps / 4)
    heavy = steps - light
    return f"{2 * (2 * min(1, heavy) + max(heavy - 1, 0) + (heavy > 1))} + {2 * light} light"


_SHOWN = (("frechet", 3), ("reference", 3), ("accuracy", 3), ("diversity", 2), ("seconds", 5))


def _values(rows: Sequence[Mapping[str, str]], name: str) -> list[float]:
    """One for each training, the mean over its samplings; of a single training one for each sampling."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["training"], []).append(float(row[name]))
    return [fmean(each) for each in found.values()] if len(found) > 1 else next(iter(found.values()))


def _shown(row: Sequence[float], places: int) -> str:
    """Mean with its interval; seconds (5 places) as milliseconds, and what is the same for all alone."""
    if places == 5:
        row, places = [1e3 * each for each in row], 1
    return f"{row[0]:.{places}f}" if max(row) == min(row) else interval(row).shown(places)


@app.command("restore")
def restore_(
    student: Annotated[list[str], typer.Argument(help="students, by name or file; the first one's prior is the rival")],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    pictures: Annotated[int, typer.Option(help="test pictures, from the front")] = 8,
    calls: Annotated[str, typer.Option(help="with commas")] = "4,8",
    std: Annotated[float, typer.Option(help="of the noise, in [-1, 1]")] = 0.05,
) -> None:
    """PSNR of restorations at few calls: the prior, the student as a velocity, and the student's map to the end."""
    torch.set_num_threads(1)
    clean = whole("fashion", data, None)["test"][0][:pictures].float() / 127.5 - 1
    flows: dict[str, Flow] = {}
    for name in student:
        opened = distilled.load(name)
        flows.setdefault("the prior", distilled.load("fashion"))
        flows[opened.name] = opened
        flows[f"{opened.name}, ahead"] = ahead(opened)
    shape = (clean.shape[1], clean.shape[2], clean.shape[3])
    damages = {"blur": operators.deblur(shape, border="circular")}
    methods: dict[str, Callable[..., Any]] = {"hqs": restore.hqs}
    typer.echo("| damage | method | calls | " + " | ".join(flows) + " |")
    typer.echo("|" + " --- |" * (3 + len(flows)))
    for damage, operator in damages.items():
        y = simulate(operator, clean, std, Noise(0, len(clean)))
        for how, method in methods.items():
            for count in map(int, calls.split(",")):
                cells = []
                for flow in flows.values():
                    noise = Noise(1, len(clean))
                    end = ended(method(flow, y, *begin(method, flow, y, count, noise), noise=noise)).clean
                    error = (end.clamp(-1, 1) - clean).square().flatten(1).mean(1)
                    cells.append(interval((10 * torch.log10(4 / error)).tolist()).shown(2))
                typer.echo(f"| {damage} | {how} | {count} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    app()
