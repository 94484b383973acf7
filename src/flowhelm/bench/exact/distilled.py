"""Few-step students against a flow map that is known: five modes in the plane, equal training for all.

    python -m flowhelm.bench.exact.distilled --csv distilled.csv
    python -m flowhelm.bench.exact.distilled --ablations --steps 1000 --seeds 3 --csv ablations.csv

The teacher is the exact velocity of the mixture. Every student is that velocity plus a small network, 0 at first, so that each begins as
Euler steps of the teacher, and is trained for as many steps of the same optimiser on as many rows; the pairs of reflow are made
beforehand. An error is the root mean square distance, per number, of the student's end from that of the exact path from the same source
(200 steps of RK4), with 95 % intervals over seeds. `energy` is the energy distance of one-step samples to the law, in units of 1e-3:
small, too, where the ends are elsewhere but the law is right. The rivals are the teacher's own solvers at as many evaluations; they need
no training. Rows are appended as they are finished; run the command again to go on. About five minutes of one core.

`--ablations` trains FreeFlow's parts instead: the predictor or the corrector alone, a corrector that never sees pure noise, and weights of
other powers. `least mode` is the share of the samples within three standard deviations of the emptiest mode, times the number of modes:
0.99 where the law is right, 0 where a mode is lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from ... import distil
from ...flow import Flow, MixtureFlow, NetFlow
from ...flow_map import NetMap
from ...learning import Batch, Data, empty
from ...momentum import ArcFlow
from ...policy import PiFlow
from ...rng import Noise
from ...solve import integrate
from ...step import run
from ...train import fit, shuffled
from ...transition import euler, heun, midpoint
from .. import kept
from ..intervals import interval

CALLS = (1, 2, 4)
ROWS, TESTED = 256, 4096
PARTS = 4


def law() -> MixtureFlow:
    """Five modes on a circle of radius 2, of standard deviation 0.25."""
    angles = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    return MixtureFlow(
        torch.full((5,), 0.2, dtype=torch.float64), means, 0.25**2 * torch.eye(2).double().expand(5, 2, 2)
    )


class Small(nn.Module):
    """Numbers `(b, n)` -> `(b, out)`, 0 at first."""

    def __init__(self, inputs: int, outputs: int, width: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3 * inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(torch.cat([x, (2 * x).sin(), (2 * x).cos()], 1))


class Beside(nn.Module):
    """The teacher's velocity at the earlier time, and a network of the state and both times beside it."""

    def __init__(self, teacher: Flow):
        super().__init__()
        self.teacher, self.own = teacher, Small(4, 2)

    def forward(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self.teacher.velocity(x, s) + self.own(torch.cat([x, s[:, None], t[:, None]], 1))


class Curved(nn.Module):
    """Profiles of the teacher's velocity and a network beside it."""

    def __init__(self, teacher: Flow):
        super().__init__()
        self.teacher, self.own = teacher, Small(3, 4 * PARTS - 1)
        self.growth = nn.Parameter(torch.linspace(-1.5, 1.5, PARTS - 1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.own(torch.cat([x, t[:, None]], 1))
        parts, logits, rates = found.split([2 * PARTS, PARTS, PARTS - 1], 1)
        whole = self.teacher.velocity(x, t)[:, None] + parts.unflatten(1, (PARTS, 2))
        return whole, logits[..., None], nn.functional.pad(rates + self.growth, (1, 0))[..., None]


class Mixed(nn.Module):
    """Mixtures of the teacher's velocity and a network beside it."""

    def __init__(self, teacher: Flow):
        super().__init__()
        self.teacher, self.own = teacher, Small(3, 3 * PARTS + 1)
        self.apart = nn.Parameter(0.05 * torch.randn(PARTS, 2, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts, logits, spread = self.own(torch.cat([x, t[:, None]], 1)).split([2 * PARTS, PARTS, 1], 1)
        whole = self.teacher.velocity(x, t)[:, None] + parts.unflatten(1, (PARTS, 2)) + self.apart
        return whole, logits[..., None], spread[..., None] + math.log(0.1)


@dataclass(frozen=True, eq=False)
class Double(NetFlow):
    """Of one time; states of two numbers in float64."""

    def source(self, noise: Noise) -> Tensor:
        return noise(torch.empty(len(noise), 2, dtype=torch.float64))


class OfOneTime(nn.Module):
    def __init__(self, teacher: Flow):
        super().__init__()
        self.net = Beside(teacher)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, t)


def students(teacher: MixtureFlow, steps: int, seed: int) -> dict[str, tuple[Any, Callable[..., Tensor], Data]]:
    """Name -> student, loss, data."""
    torch.manual_seed(seed)
    clean = teacher.sample(Noise(seed, 20_000))
    data, nothing = shuffled(clean, batch=ROWS, seed=seed), empty(ROWS)
    two = lambda: NetMap(Beside(teacher), (2,))  # noqa: E731
    watched = NetMap(distil.Watched(Beside(teacher), OfOneTime(teacher)), (2,))
    straight = Double(OfOneTime(teacher), (2,))
    pairs = distil.pairs(straight, 20_000, batch=ROWS * 4, steps=25, transition=heun, seed=seed)
    few = lambda index: _part(pairs(index // 4), index % 4)  # noqa: E731
    third = max(1, steps // 3)
    grid = torch.linspace(0, 1, 3, dtype=torch.float64)
    return {
        "mean_flow": (two(), partial(distil.mean_flow, teacher=teacher), data),
        "free_flow": (watched, partial(distil.free_flow, teacher=teacher), nothing),
        "free_flow, predictor": (
            two_watched(teacher),
            partial(distil.free_flow, teacher=teacher, predictor=1.0),
            nothing,
        ),
        "mdt_dist": (two(), partial(distil.mdt_dist, teacher=teacher), data),
        "mdt_dist, matching": (two(), partial(distil.mdt_dist, teacher=teacher, distillation=0.0), data),
        "consistency": (two(), partial(distil.consistency, teacher=teacher), data),
        "arc_flow": (ArcFlow(Curved(teacher), (2,)), partial(distil.arc_flow, teacher=teacher, anneal=third), nothing),
        "reflow": (straight, distil.reflow, few),
        "reflow, one step": (Double(OfOneTime(teacher), (2,)), partial(distil.reflow, points=1), few),
        "straighten": (
            Double(OfOneTime(teacher), (2,)),
            partial(distil.straighten, teacher=teacher, times=grid),
            nothing,
        ),
        "pi_flow": (PiFlow(Mixed(teacher), (2,)), partial(distil.pi_flow, teacher=teacher, anneal=third), nothing),
    }


def ablations(teacher: MixtureFlow, steps: int, seed: int) -> dict[str, tuple[Any, Callable[..., Tensor], Data]]:
    """FreeFlow and what is left of it without a part: name -> student, loss, data."""
    torch.manual_seed(seed)
    changes: dict[str, dict[str, Any]] = {
        "free_flow": {},
        "predictor alone": {"predictor": 1.0},
        "corrector alone": {"predictor": 0.0},
        "half corrector": {"predictor": 0.5},
        "never pure noise": {"noising": lambda t: 0.4 + 0.6 * t},
        "power 0.5": {"power": 0.5},
        "power 0": {"power": 0.0},
    }
    return {
        name: (two_watched(teacher), partial(distil.free_flow, teacher=teacher, **change), empty(ROWS))
        for name, change in changes.items()
    }


def least(samples: Tensor, teacher: MixtureFlow) -> float:
    """The share of samples `(n, 2)` within three standard deviations of the emptiest mode, times the number of modes."""
    near = torch.cdist(samples, teacher.means) < 3 * float(teacher.covariances[0, 0, 0]) ** 0.5
    return float(near.sum(0).min()) * len(teacher.means) / len(samples)


def two_watched(teacher: Flow) -> NetMap:
    return NetMap(distil.Watched(Beside(teacher), OfOneTime(teacher)), (2,))


def _part(batch: Batch, index: int) -> Batch:
    rows = slice(index * ROWS, (index + 1) * ROWS)
    assert batch.source is not None
    return Batch(batch.clean[rows], (), batch.source[rows])


@torch.no_grad()
def ended(student: Any, x: Tensor, calls: int) -> Tensor:
    times = torch.linspace(0, 1, calls + 1, dtype=torch.float64)
    for s, t in pairwise(times):
        x = student.map(x, s, t) if hasattr(student, "map") else x + (t - s) * student.velocity(x, s)
    return x


def energy(one: Tensor, other: Tensor) -> float:
    """The energy distance 2 E|x - y| - E|x - x'| - E|y - y'|."""
    cross = torch.cdist(one, other).mean()
    own = sum(torch.cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (one, other))
    return float(2 * cross - own)


def solvers(teacher: MixtureFlow, x: Tensor, exact: Tensor) -> list[dict[str, Any]]:
    rows = []
    for name, move, cost in (
        ("teacher, Euler", euler, 1),
        ("teacher, midpoint", midpoint, 2),
        ("teacher, Heun", heun, 2),
    ):
        row: dict[str, Any] = {"method": name, "seconds": 0.0}
        for calls in CALLS:
            if calls % cost == 0:
                found = run(integrate(teacher, x, torch.linspace(0, 1, calls // cost + 1).double(), transition=move)).x
                row[f"error {calls}"] = float((found - exact).square().mean().sqrt())
                row[f"energy {calls}"] = 1e3 * energy(found, teacher.sample(Noise(99, TESTED)))
        rows.append(row)
    return rows


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser, of each student.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, with another seed.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Train this student only; may be given several times.")] = None,
    parts: Annotated[bool, typer.Option("--ablations", help="Train FreeFlow without each of its parts.")] = False,
    out: Annotated[Path | None, typer.Option("--csv", help="Append the rows to this file.")] = None,
) -> None:
    """Train each student on the known law, and compare where it ends with the exact paths."""
    teacher = law()
    x = Noise(123, TESTED)(torch.empty(TESTED, 2, dtype=torch.float64))
    exact = _exact(teacher, x)
    columns = ["method", "seed", "steps", "seconds", *(f"{w} {c}" for w in ("error", "energy") for c in CALLS)]
    columns += ["least mode"] if parts else []
    stored = kept.stored(out)
    known = {(row["method"], int(row["seed"])): row for row in stored if int(row["steps"]) == steps}
    rows: list[dict[str, Any]] = [{**row, "seed": 0, "steps": 0} for row in solvers(teacher, x, exact)]
    rows += [{k: v if k == "method" else float(v) for k, v in row.items() if v} for row in known.values()]
    for seed in range(seeds):
        for name, (student, loss, data) in (ablations if parts else students)(teacher, steps, seed).items():
            if (only and name not in only) or (name, seed) in known:
                continue
            began = time.process_time()
            for _ in fit(student, loss, data, steps=steps, rate=2e-3, warmup=50, weight_decay=0.0, seed=seed):
                pass
            row: dict[str, Any] = {"method": name, "seed": seed, "steps": steps, "seconds": time.process_time() - began}
            for calls in CALLS:
                found = ended(student, x, calls)
                row[f"error {calls}"] = float((found - exact).square().mean().sqrt())
                row[f"energy {calls}"] = 1e3 * energy(found, teacher.sample(Noise(99, TESTED)))
            if parts:
                row["least mode"] = least(ended(student, x, 1), teacher)
            rows.append(row)
            kept.append(out, row, columns=columns)
            typer.echo(f"{name}, seed {seed}: error {row['error 1']:.3f} at one call, {row['seconds']:.0f} s", err=True)
    for line in table(rows):
        typer.echo(line)


def _exact(teacher: MixtureFlow, x: Tensor, steps: int = 200) -> Tensor:
    """The ends of the paths, by RK4."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        for s, t in pairwise(times):
            h, m = t - s, (s + t) / 2
            a = teacher.velocity(x, s)
            b = teacher.velocity(x + h / 2 * a, m)
            c = teacher.velocity(x + h / 2 * b, m)
            x = x + h / 6 * (a + 2 * b + 2 * c + teacher.velocity(x + h * c, t))
    return x


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: means over seeds with 95 % intervals."""
    parts = any("least mode" in row for row in rows)
    head = ["student", *(f"error, {c} call{'s' * (c > 1)}" for c in CALLS), "energy, 1 call", "seconds"]
    head += ["least mode"] * parts
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cells = [name, *(interval(row[f"error {c}"] for row in own if f"error {c}" in row).shown(3) for c in CALLS)]
        cells += [
            interval(row["energy 1"] for row in own if "energy 1" in row).shown(1),
            interval(row["seconds"] for row in own).shown(0),
        ]
        cells += [interval(row["least mode"] for row in own if "least mode" in row).shown(2)] * parts
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    typer.run(main)
