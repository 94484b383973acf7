r"""FlowTurbo's saving of time at equal Fréchet distance, split into pseudo-corrector, refiner and compilation.

    python -m flowhelm.bench.quality.students run fashion --data fashion_mnist.npz --work bench --csv students.csv \
        --methods flow_turbo --calls 2 --seconds 100 --samples 200
    python -m flowhelm.bench.quality.turbo run fashion --data fashion_mnist.npz --work bench --csv turbo.csv \
        --refiner bench/fashion-flow_turbo-2-100s-0/student.safetensors
    python -m flowhelm.bench.quality.turbo table turbo.csv

The rival is the paper's: Heun's rule on even times, with the prior's guidance. Hn is so many steps of it, HnPmRk FlowTurbo's schedule: n
steps of Heun, m of the pseudo-corrector, k of the refiner. All draw from the same noise.

- Fréchet distance to the test part, as in `bench.quality.students`; distance: root mean square difference from the prior's own pictures
  of the same noise, 40 steps of UniPC.
- ms a picture: of one core, in batches of 25, of the first sampling; compiled: with `torch.compile` of the network and of the refiner,
  least of three of each in turn, so that other work on the machine counts for both.

A part's saving at an accuracy is the time of the cheapest schedule with it and without it, neither farther than Heun's own. Rows are
appended as they are finished; run the command again to go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor

from ... import guide, sample
from ...priors import bundled, distilled
from ...rng import Noise
from ...solve import integrate
from ...step import run as ended
from ...transition import heun
from .. import kept
from ..intervals import interval
from .students import Judge

app = typer.Typer(help=__doc__, add_completion=False)
BATCH, FINE, REPEATS = 25, 40, 3
Schedule = tuple[int, int, int]
"""Steps of Heun, of the pseudo-corrector, of the refiner."""
SCHEDULES: tuple[Schedule, ...] = (
    *((n, 0, 0) for n in (4, 5, 6, 8)),
    *((1, n - 1, 0) for n in (4, 5, 6, 8, 10)),
    *((1, n - 1 - light, light) for n, light in ((5, 1), (6, 1), (6, 2), (8, 2), (8, 3), (10, 2), (10, 3))),
)


@app.callback()
def _top() -> None:
    """What each part of FlowTurbo saves."""


def name_of(schedule: Schedule) -> str:
    return "".join(f"{letter}{count}" for letter, count in zip("HPR", schedule, strict=True) if count)


def calls(schedule: Schedule) -> tuple[int, int]:
    """Evaluations of the network, and of the refiner."""
    h, p, r = schedule
    return 2 * h + p + (p > 0), 2 * r


def drawing(flow: Any, schedule: Schedule, x: Tensor) -> Tensor:
    h, p, r = schedule
    times = torch.linspace(0, 1, h + p + r + 1, dtype=torch.float64)
    if h and not p and not r:
        return ended(integrate(flow, x, times, transition=heun)).x
    return ended(sample.flow_turbo(flow, x, times, heun=h, light=r)).x


def told(flow: Any, numbers: Sequence[int], scale: float) -> Any:
    names = [i % len(flow.about["classes"]) for i in numbers]
    return flow.told(names, guidance=partial(guide.cfg, scale=scale))


def compiled(flow: Any) -> Any:
    inner = replace(flow.refiner, net=torch.compile(flow.refiner.net))
    return replace(flow, net=torch.compile(flow.net), refiner=inner)


@app.command("run")
@torch.no_grad()
def run_(
    name: Annotated[str, typer.Argument(help="a bundled prior with classes: fashion")],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder of the classifier's weights")],
    refiner: Annotated[Path, typer.Option(help="a student of flow_turbo")],
    out: Annotated[Path, typer.Option("--csv", help="file, appended to")],
    samples: Annotated[int, typer.Option(help="of each row; distances depend on it")] = 200,
    seeds: Annotated[int, typer.Option(help="times that each samples, from other noise")] = 2,
    fast: Annotated[bool, typer.Option("--compiled/--plain", help="time compiled networks, too")] = True,
) -> None:
    """Draw by every schedule, and time it."""
    torch.set_num_threads(1)
    flow, base = distilled.load(refiner), bundled.load(name)
    judge, labels = Judge(name, data, work, samples), torch.arange(samples) % len(base.about["classes"])
    quick = compiled(flow) if fast else None
    rows = kept.stored(out)
    known = {(row["schedule"], row["seed"], row["samples"]) for row in rows}
    for seed in range(seeds):
        parts = [list(range(first, min(first + BATCH, samples))) for first in range(0, samples, BATCH)]
        noises = [base.source(Noise(seed, numbers)) for numbers in parts]
        fine: list[Tensor] = []
        for schedule in SCHEDULES:
            if (name_of(schedule), str(seed), str(samples)) in known:
                continue
            if not fine:
                for numbers, x in zip(parts, noises, strict=True):
                    bound = told(base, numbers, base.scale)
                    fine.append(ended(sample.unipc(bound, x, bound.times(FINE))).x)
            found = [
                drawing(told(flow, numbers, base.scale), schedule, x) for numbers, x in zip(parts, noises, strict=True)
            ]
            apart = float((torch.cat(found) - torch.cat(fine)).square().mean().sqrt())
            pictures = ((torch.cat(found).clamp(-1, 1) + 1) * 127.5).round().byte()
            heavy, light = calls(schedule)
            row = {
                "prior": name,
                "schedule": name_of(schedule),
                "heavy": heavy,
                "light": light,
                "seed": seed,
                "samples": samples,
            }
            row |= judge(pictures, labels) | {"distance": f"{apart:.4f}"}
            row |= (
                timed({"seconds": flow, "compiled": quick}, schedule, parts[0], noises[0], base.scale)
                if not seed
                else {"seconds": "", "compiled": ""}
            )
            typer.echo(" ".join(f"{k}={v}" for k, v in row.items()))
            kept.append(out, row)


def timed(
    flows: Mapping[str, Any], schedule: Schedule, numbers: Sequence[int], x: Tensor, scale: float
) -> dict[str, str]:
    """Seconds of one core for a picture, least of a few: of each flow in turn."""
    best = {which: float("inf") for which, flow in flows.items() if flow is not None}
    if "compiled" in best:
        drawing(told(flows["compiled"], numbers, scale), schedule, x)  # it compiles at the first call
    for _ in range(REPEATS):
        for which in best:
            bound = told(flows[which], numbers, scale)
            began = time.process_time()
            drawing(bound, schedule, x)
            best[which] = min(best[which], (time.process_time() - began) / len(x))
    return {which: f"{best[which]:.5f}" if which in best else "" for which in flows}


FAMILIES: Mapping[str, str] = {"Heun": "H", "and the pseudo-corrector": "HP", "and the refiner": "HPR"}
"""Each holds the schedules of those before it."""


@app.command()
def table(
    file: Annotated[Path, typer.Argument(help="CSV file of `run`")],
    by: Annotated[Literal["frechet", "distance"], typer.Option(help="what has to be as good as Heun's")] = "frechet",
) -> None:
    """The schedules, means over samplings with 95 % intervals, and what each part saves.

    The last line is a mean over Heun's numbers of steps, with a 95 % interval.
    """
    rows = kept.read(file)
    names = list(dict.fromkeys(row["schedule"] for row in rows))
    own = {name: [row for row in rows if row["schedule"] == name] for name in names}
    typer.echo("| schedule | network + refiner | Fréchet to test | distance | ms a picture | compiled |")
    typer.echo("|" + " --- |" * 6)
    for name, each in own.items():
        cells = [name, f"{each[0]['heavy']} + {each[0]['light']}"]
        cells += [
            interval(float(row[k]) for row in each).shown(places) for k, places in (("frechet", 3), ("distance", 4))
        ]
        cells += [interval(1e3 * float(row[k]) for row in each if row[k]).shown(1) for k in ("seconds", "compiled")]
        typer.echo("| " + " | ".join(cells) + " |")
    typer.echo("")
    typer.echo("| as good as | " + " | ".join([*FAMILIES, "compiled"]) + " | saved in all |")
    typer.echo("|" + " --- |" * (3 + len(FAMILIES)))
    mean = {
        name: {k: fmean(float(row[k]) for row in each if row[k]) for k in (by, "seconds")} for name, each in own.items()
    }
    fast = {
        name: fmean([float(row["compiled"]) for row in each if row["compiled"]] or [nan]) for name, each in own.items()
    }
    left: list[list[float]] = []
    for rival in (name for name in names if name[1:].isdigit()):
        cells, best, heun = [rival], rival, mean[rival]["seconds"]
        left.append([])
        for letters in FAMILIES.values():
            best = cheapest(mean, rival, letters, by)
            cells.append(f"{best}, {1e3 * mean[best]['seconds']:.1f} ms")
            left[-1].append(mean[best]["seconds"] / heun)
        left[-1].append(fast[best] / heun)
        cells += [f"{1e3 * fast[best]:.1f} ms", f"{1 - left[-1][-1]:.0%}"]
        typer.echo("| " + " | ".join(cells) + " |")
    steps = [[100 * (a - b) for a, b in pairwise(each)] for each in left]
    saved = [interval(part).shown(0) + " %" for part in (*zip(*steps, strict=True), [sum(each) for each in steps])]
    typer.echo(f"| share of Heun's time that it saves, mean | - | {' | '.join(saved)} |")


def cheapest(mean: Mapping[str, Mapping[str, float]], rival: str, letters: str, by: str) -> str:
    """The quickest schedule of these kinds of steps that is no worse than the rival."""
    fit = [
        name for name, row in mean.items()
        if set(filter(str.isalpha, name)) <= set(letters) and row[by] <= mean[rival][by]
    ]  # fmt: skip
    return min(fit, key=lambda name: mean[name]["seconds"])


if __name__ == "__main__":
    app()
