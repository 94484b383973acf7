"""How far are the solvers from the solution, at so many evaluations?

    python -m flowhelm.bench.quality.sampling mixtures                         the two mixtures, against diffusers' UniPC-2 and others
    python -m flowhelm.bench.quality.sampling distance fashion --csv rows.csv  a prior: the distance to the solution of the same noise
    python -m flowhelm.bench.quality.sampling frechet fashion --data fashion_mnist.npz --work bench --csv frechet.csv
    python -m flowhelm.bench.quality.sampling reuse fashion                    the unguided half of guidance, every second time
    python -m flowhelm.bench.quality.sampling cost                             arithmetic of the solvers beside the network calls
    python -m flowhelm.bench.quality.sampling show rows.csv                    the tables
    python -m flowhelm.bench.quality.sampling table rows.csv                   `solvers.json`, what `--solver auto` takes
    python -m flowhelm.bench.quality.sampling plot rows.csv --out sampling.png

An evaluation is a velocity: with guidance two rows of the network, for every solver alike. A solver of two evaluations a step gets half
the steps. Distances are root mean squares over the state, of each picture; the solution is by UniPC of order 3 with 250 steps (on `fashion`
0.0003 from Euler's of 4000). Rows are appended as they are finished; the same command goes on.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import sample
from ...app.draw.conditions import own_guidance
from ...app.draw.solvers import GRIDS, solver_of
from ...app.options.signature import function_of
from ...flow import Flow, MixtureFlow
from ...guide import counted
from ...metrics import magnitude_score
from ...priors.bundled import load
from ...rng import Noise
from ...solve import Solver
from ...step import Step, run

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
COUNTS = (4, 6, 8, 10, 15, 25, 50)
TOY = (5, 8, 10, 16, 32)
RIVAL = "unipc:variable=snr,rule=bh2"
SOLVERS = (
    "euler", "heun", "midpoint", "pseudo", "pseudo:last=false", "ab", "ab:order=3", "ab:order=4", "dpm", "dpm:variable=log", "dpm:order=3",
    "dpm:order=3,kappa=2", RIVAL, f"{RIVAL},order=3", "unipc:variable=log", "unipc", "unipc:order=3", "unipc:order=4", "deis",
    "deis:variable=log", "deis:order=3", "res", "res:order=3", "ghvb:order=0.8", "ghvb:order=1.8", "ghvb:order=2.5", "ghvb:order=3.8",
    "hb", "hb:base=unipc", "dual_fast:base=ab:order=1", "dual_fast:strength=0.1", "dual_fast:base=unipc,strength=0.1",
    "dual_fast:base=ab:order=1,reference=previous,strength=0.3", "dual_fast:base=dpm,form=epsilon,strength=0.1",
)  # fmt: skip
FEW = (
    "euler", "midpoint", "pseudo", "ab", "ab:order=3", "dpm", "dpm:variable=log", RIVAL, "unipc", "unipc:order=3", "deis",
    "ghvb:order=1.8", "ghvb:order=2.5", "hb", "dual_fast:base=ab:order=1", "dual_fast:base=unipc,strength=0.1",
)  # fmt: skip
TWICE = {"heun": 1, "midpoint": 0}
"""Of two evaluations a step; so many are saved at the end."""


def steps_for(words: str, evaluations: int) -> int | None:
    """How many steps cost so many evaluations; None if no number does."""
    name = words.partition(":")[0]
    if name in TWICE:
        steps, rest = divmod(evaluations + TWICE[name], 2)
        return steps if not rest and steps else None
    return evaluations - 1 if words == "pseudo" else evaluations


def mixture(std: float, seed: int = 0) -> tuple[MixtureFlow, Tensor]:
    """Five components in four dimensions, and 256 sources: the two of the comparison with std 0.6 and 0.15 and seed 0."""
    g = torch.Generator().manual_seed(seed)
    means = 1.2 * torch.randn(5, 4, generator=g, dtype=torch.float64)
    x = torch.randn(256, 4, generator=g, dtype=torch.float64)
    each = std**2 * torch.eye(4, dtype=torch.float64)
    return MixtureFlow(torch.ones(5, dtype=torch.float64), means, each.expand(5, 4, 4)), x


def theirs(kind: str, options: dict[str, Any], true: bool) -> Solver:
    """A scheduler of diffusers on its own default grid; `true`: the model is asked at the true sigma, not at truncated times."""

    def solver(flow: Flow, x: Tensor, times: Tensor, *, noise: Noise | None = None) -> Iterator[Step]:
        import diffusers

        scheduler = getattr(diffusers, kind)(**options)
        scheduler.set_timesteps(len(times) - 1)
        for i, label in enumerate(scheduler.timesteps):
            sigma = scheduler.sigmas[i].double() if true else label.double() / 1000
            v = flow.velocity(x, 1 - sigma)
            x = scheduler.step(-v, label, x, return_dict=False)[0]
            yield Step(i + 1, len(times) - 1, times[i + 1], x, x, {})

    return solver


_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
THEIRS = {
    "diffusers Euler": theirs("FlowMatchEulerDiscreteScheduler", {}, False),
    "diffusers DPM++ 2M": theirs("DPMSolverMultistepScheduler", _FLOW, False),
    "diffusers UniPC-2": theirs("UniPCMultistepScheduler", _FLOW, False),
    "diffusers UniPC-3": theirs("UniPCMultistepScheduler", _FLOW | {"solver_order": 3}, False),
    "diffusers UniPC-2, true sigmas": theirs("UniPCMultistepScheduler", _FLOW, True),
    "diffusers DEIS-2": theirs("DEISMultistepScheduler", _FLOW, False),
}


def deviation(found: Tensor, exact: Tensor) -> Tensor:
    """Root mean square of each row."""
    return (found - exact).flatten(1).square().mean(1).sqrt().double()


@app.command()
def mixtures(
    seeds: Annotated[int, typer.Option(help="other mixtures, for means of the ratio")] = 5,
) -> None:
    """The end's error on mixtures, over 256 sources together."""
    for kind, std in (("smooth", 0.6), ("sharp", 0.15)):
        flow, x = mixture(std)
        exact = run(sample.rk4(flow, x, uniform(2000))).x
        ratios: dict[str, list[list[float]]] = {}
        print(f"\n| {kind}: solver | {' | '.join(map(str, TOY))} |\n| --- |{' --- |' * len(TOY)}")
        makers = {**{w: solver_of(w) for w in SOLVERS}, **THEIRS}
        for name, solver in makers.items():
            print(f"| {name} | {' | '.join(_cell(flow, solver, x, exact, name, n) for n in TOY)} |", flush=True)
        for seed in range(1, seeds + 1):
            other, y = mixture(std, seed)
            end = run(sample.rk4(other, y, uniform(400))).x
            base = [float(_error(other, solver_of(RIVAL), y, end, n)) for n in TOY]
            for words in SOLVERS:
                if words.partition(":")[0] not in TWICE:
                    found = [float(_error(other, solver_of(words), y, end, steps_for(words, n) or n)) for n in TOY]
                    ratios.setdefault(words, []).append([math.log(a / b) for a, b in zip(found, base, strict=True)])
        print(
            f"\n| {kind}, {seeds} other mixtures: error by that of UniPC-2 | {' | '.join(map(str, TOY))} |\n| --- |{' --- |' * len(TOY)}"
        )
        for words, rows in ratios.items():
            means = [math.exp(sum(column) / len(column)) for column in zip(*rows, strict=True)]
            print(f"| {words} | {' | '.join(f'{m:.2f}' for m in means)} |")


def uniform(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def _error(flow: Flow, solver: Solver, x: Tensor, exact: Tensor, steps: int) -> Tensor:
    return (run(solver(flow, x, uniform(steps))).x - exact).square().mean().sqrt()


def _cell(flow: Flow, solver: Solver, x: Tensor, exact: Tensor, name: str, evaluations: int) -> str:
    steps = steps_for(name, evaluations)
    return "" if steps is None else f"{float(_error(flow, solver, x, exact, steps)):.4f}"


def told(name: str, rows: list[int], size: int | None, guided: bool = True) -> Flow:
    """A bundled prior as `flowhelm sample` draws from it: picture i shows class i modulo the classes, under the prior's guidance."""
    flow = load(name)
    if size or flow.shape[-1] > 64:
        flow = flow.sized(size or 64, size or 64)
    classes = list(flow.about.get("classes", ()))
    return (
        flow.told([classes[i % len(classes)] for i in rows], guidance=own_guidance(flow) if guided else None)
        if classes
        else flow
    )


class Rows:
    """The rows of a CSV file: what is there is not measured again."""

    def __init__(self, out: Path | None):
        self.out = out
        self.rows = list(csv.DictReader(out.open(newline=""))) if out and out.exists() else []

    def has(self, **key: str) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, str]) -> None:
        self.rows.append(row)
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        if self.out:
            fresh = not self.out.exists()
            with self.out.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)


def interval(values: Tensor) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    return float(values.mean()), float(1.96 * values.std() / len(values) ** 0.5)


@app.command()
def distance(
    name: Annotated[str, typer.Argument(help="a bundled prior")],
    pictures: Annotated[int, typer.Option(help="noises")] = 16,
    seed: Annotated[int, typer.Option(help="of the noises")] = 1,
    size: Annotated[int | None, typer.Option(help="of the pictures, of a prior of any size")] = None,
    solvers: Annotated[str, typer.Option(help="all, few, or words with semicolons between them")] = "few",
    grids: Annotated[str, typer.Option(help="own, or words with semicolons between them")] = "own",
    counts: Annotated[str, typer.Option(help="evaluations, with commas")] = ",".join(map(str, COUNTS)),
    fine: Annotated[int, typer.Option(help="steps of the solution, by UniPC of order 3")] = 250,
    out: Annotated[Path | None, typer.Option("--csv", help="file, appended to")] = None,
) -> None:
    """The distance of a prior's pictures to the solution of the same noise."""
    torch.set_num_threads(1)
    rows, noise = list(range(pictures)), Noise(seed, pictures)
    flow, table = told(name, rows, size), Rows(out)
    x = flow.source(noise)
    exact = solution(flow, x, f"{name}-{seed}-{len(x)}-{fine}", fine, out)
    for words in {"all": SOLVERS, "few": FEW}.get(solvers, solvers.split(";")):
        for grid in grids.split(";"):
            for count in map(int, counts.split(",")):
                steps = steps_for(words, count)
                key = {"prior": name, "solver": words, "grid": grid, "evaluations": str(count)}
                if steps is None or table.has(**key):
                    continue
                times = flow.times(steps) if grid == "own" else function_of(GRIDS, grid)(steps)
                begun, asked = time.perf_counter(), counted(flow)
                end = run(solver_of(words)(asked, x, times, noise=noise.named("solver"))).x
                mean, half = interval(deviation(end, exact))
                runaway = float((magnitude_score(end, exact) - magnitude_score(exact, exact)).mean())
                found = {"counted": str(asked.count.calls), "error": f"{mean:.5f}", "half": f"{half:.5f}"}
                found |= {"artefacts": f"{runaway:.2f}", "each": " ".join(f"{e:.5f}" for e in deviation(end, exact))}
                table.add(key | found | {"seconds": f"{time.perf_counter() - begun:.1f}"})


def solution(flow: Flow, x: Tensor, name: str, fine: int, out: Path | None) -> Tensor:
    kept = out.with_name(f"{name}.solution.pt") if out else None
    if kept and kept.exists():
        return torch.load(kept, weights_only=True)
    end = run(sample.unipc(flow, x, flow.times(fine), order=3)).x
    if kept:
        torch.save(end, kept)
    return end


if __name__ == "__main__":
    app()
