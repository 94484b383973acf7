"""How far are the solvers from the solution, at so many evaluations?

    python -m flowhelm.bench.quality.sampling mixtures                         the two mixtures, against diffusers' UniPC-2 and others
    python -m flowhelm.bench.quality.sampling distance fashion --csv rows.csv  a prior: the distance to the solution of the same noise
    python -m flowhelm.bench.quality.sampling sets fashion --data f.npz        Fréchet distance and class accuracy (`solver_sets`)
    python -m flowhelm.bench.quality.sampling reuse fashion                    the unguided half of guidance, every second time
    python -m flowhelm.bench.quality.sampling parallel fashion                 Picard's iteration: calls, rows and seconds
    python -m flowhelm.bench.quality.sampling cost                             arithmetic of the solvers beside the network calls
    python -m flowhelm.bench.quality.sampling show rows.csv                    the tables
    python -m flowhelm.bench.quality.sampling table rows.csv                   `solvers.json`, what `--solver auto` takes
    python -m flowhelm.bench.quality.sampling plot rows.csv --out sampling.png

An evaluation is a velocity: with guidance two rows of the network, for every solver alike. A solver of two evaluations a step gets half
the steps. Distances are root mean squares over the state, of each picture; the solution is by UniPC of order 3 with --fine steps. Rows are
appended as they are finished; the same command goes on.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import guide, sample
from ...app.draw.solvers import GRIDS, solver_of
from ...app.options.signature import function_of
from ...flow import Flow, MixtureFlow, Pixels
from ...guide import counted
from ...metrics import magnitude_score
from ...path import linear
from ...priors.bundled import load
from ...rng import Noise
from ...solve import Solver
from ...step import Step, run
from .. import kept
from ..intervals import interval
from .solver_rows import RIVAL, TWICE, Rows, steps_for, told
from .solver_sets import pictures, sets, show_sets

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
app.command()(sets)
app.command()(show_sets)
app.command()(pictures)
COUNTS = (4, 6, 8, 10, 15, 25, 50)
TOY = (5, 8, 10, 16, 32)
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
    solvers: Annotated[str, typer.Option(help="all, few, or words with semicolons between them")] = "all",
) -> None:
    """The end's error on mixtures, over 256 sources together."""
    for kind, std in (("smooth", 0.6), ("sharp", 0.15)):
        flow, x = mixture(std)
        exact = run(sample.rk4(flow, x, uniform(2000))).x
        ratios: dict[str, list[list[float]]] = {}
        print(f"\n| {kind}: solver | {' | '.join(map(str, TOY))} |\n| --- |{' --- |' * len(TOY)}")
        chosen = _chosen(solvers)
        makers = {**{w: solver_of(w) for w in chosen}, **(THEIRS if solvers == "all" else {})}
        for name, solver in makers.items():
            print(f"| {name} | {' | '.join(_cell(flow, solver, x, exact, name, n) for n in TOY)} |", flush=True)
        for seed in range(1, seeds + 1):
            other, y = mixture(std, seed)
            end = run(sample.rk4(other, y, uniform(400))).x
            base = [float(_error(other, solver_of(RIVAL), y, end, n)) for n in TOY]
            for words in chosen:
                if words.partition(":")[0] not in TWICE:
                    found = [float(_error(other, solver_of(words), y, end, steps_for(words, n) or n)) for n in TOY]
                    ratios.setdefault(words, []).append([math.log(a / b) for a, b in zip(found, base, strict=True)])
        print(
            f"\n{kind}, {seeds} other mixtures: error by that of UniPC-2, geometric mean, and on how many it is at most 1.1\n"
        )
        print(f"| {kind} | {' | '.join(map(str, TOY))} |\n| --- |{' --- |' * len(TOY)}")
        for words, rows in ratios.items():
            columns = list(zip(*rows, strict=True))
            means = [math.exp(sum(column) / len(column)) for column in columns]
            within = [sum(each <= math.log(1.1) for each in column) for column in columns]
            print(f"| {words} | {' | '.join(f'{m:.2f} ({k})' for m, k in zip(means, within, strict=True))} |")


def _chosen(solvers: str) -> tuple[str, ...]:
    return {"all": SOLVERS, "few": FEW}.get(solvers) or tuple(solvers.split(";"))


def uniform(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def _error(flow: Flow, solver: Solver, x: Tensor, exact: Tensor, steps: int) -> Tensor:
    return (run(solver(flow, x, uniform(steps))).x - exact).square().mean().sqrt()


def _cell(flow: Flow, solver: Solver, x: Tensor, exact: Tensor, name: str, evaluations: int) -> str:
    steps = steps_for(name, evaluations)
    return "" if steps is None else f"{float(_error(flow, solver, x, exact, steps)):.4f}"


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
    for words in _chosen(solvers):
        for grid in grids.split(";"):
            for count in map(int, counts.split(",")):
                steps = steps_for(words, count)
                key = {"prior": name, "solver": words, "grid": grid, "evaluations": str(count)}
                if steps is None or table.has(**key):
                    continue
                times = flow.times(steps) if grid == "own" else function_of(GRIDS, grid)(steps)
                begun, asked = time.perf_counter(), counted(flow)
                end = run(solver_of(words)(asked, x, times, noise=noise.named("solver"))).x
                mean, half = interval(deviation(end, exact).tolist())
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


@app.command()
def reuse(
    name: Annotated[str, typer.Argument(help="a bundled prior with classes")],
    pictures: Annotated[int, typer.Option()] = 8,
    counts: Annotated[str, typer.Option(help="steps, with commas")] = "8,10,15",
    fine: Annotated[int, typer.Option()] = 250,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """The unguided half of guidance, used again: rows of the network, and the distance to the solution that always asks."""
    torch.set_num_threads(1)
    flow: Any = told(name, list(range(pictures)), None)
    x = flow.source(Noise(seed, pictures))
    exact = solution(flow, x, "", fine, None)
    errors: dict[int, list[float]] = {}  # of plain runs, by steps

    def plain(steps: int) -> list[float]:
        if steps not in errors:
            errors[steps] = deviation(run(sample.unipc(flow, x, flow.times(steps))).x, exact).tolist()
        return errors[steps]

    print(
        "| steps | asked every | rows a picture | error | margin over always asking, of no fewer rows |\n| --- |"
        + " --- |" * 4
    )
    for steps in map(int, counts.split(",")):
        for every in (1, 2, 3):
            if every == 1:
                mean, half = interval(plain(steps))
                print(f"| {steps} | 1 | {2 * steps} | {mean:.4f} ± {half:.4f} | |", flush=True)
                continue
            asked: Any = guide.reused(flow, every)
            found = deviation(run(sample.unipc(asked, x, flow.times(steps))).x, exact).tolist()
            rows = asked.kept.rows // pictures
            few = math.ceil(rows / 2)
            margin, width = interval([a - b for a, b in zip(found, plain(few), strict=True)])
            mean, half = interval(found)
            rival = f"{margin:+.4f} ± {width:.4f} ({few} steps, {2 * few} rows)"
            print(f"| {steps} | {every} | {rows} | {mean:.4f} ± {half:.4f} | {rival} |", flush=True)


@app.command()
def parallel(
    name: Annotated[str, typer.Argument(help="a bundled prior")],
    pictures: Annotated[int, typer.Option(min=2)] = 4,
    steps: Annotated[int, typer.Option(help="of Euler, which Picard's iteration makes at once")] = 32,
    fine: Annotated[int, typer.Option(help="steps of the solution, by UniPC of order 3")] = 100,
    seed: Annotated[int, typer.Option()] = 1,
    rounds: Annotated[int, typer.Option(help="times that each is timed; the median is printed", min=1)] = 3,
) -> None:
    """Picard's iteration beside Euler with the same steps, and UniPC with as few as err no more than Euler does."""
    torch.set_num_threads(1)
    flow = told(name, list(range(pictures)), None)
    x = flow.source(Noise(seed, pictures))
    exact = solution(flow, x, "", fine, None)
    ways: dict[str, Callable[[Flow], Iterator[Step]]] = {
        f"euler, {steps} steps": lambda f: sample.euler(f, x, f.times(steps))
    }
    for window in (None, 8):
        for tolerance in (0.02, 0.005):
            ways[f"picard, tolerance {tolerance:g}, window {window or steps}"] = partial(
                sample.picard, x=x, times=flow.times(steps), tolerance=tolerance, window=window
            )
    euler = float(deviation(run(sample.euler(flow, x, flow.times(steps))).x, exact).mean())
    for few in range(2, steps):
        if float(deviation(run(sample.unipc(flow, x, flow.times(few))).x, exact).mean()) <= euler:
            ways[f"unipc, {few} steps"] = partial(sample.unipc, x=x, times=flow.times(few))
            break
    print(
        "| way | calls of the network, one after another | rows a picture | seconds a picture | error |\n| --- |"
        + " --- |" * 4
    )
    for words, way in ways.items():
        asked, spent = counted(flow), []
        end = run(way(asked)).x
        rows = asked.count.rows / pictures
        for _ in range(rounds):
            begun = time.process_time()
            run(way(flow))
            spent.append((time.process_time() - begun) / pictures)
        mean, half = interval(deviation(end, exact).tolist())
        seconds = statistics.median(spent)
        print(f"| {words} | {asked.count.calls} | {rows:.0f} | {seconds:.2f} | {mean:.4f} ± {half:.4f} |", flush=True)


@app.command()
def cost(
    side: Annotated[int, typer.Option(help="of the pictures")] = 64,
    rows: Annotated[int, typer.Option(help="pictures at a time")] = 4,
    steps: Annotated[int, typer.Option()] = 8,
    rounds: Annotated[int, typer.Option(help="pairs of a network call and a run", min=2)] = 21,
) -> None:
    """Time of the solvers' own arithmetic, with a network that answers at once, beside that of the network of `photos`.

    In pairs, one after the other, so that other work on the machine weighs on both; medians, and quartiles of the shares.
    """
    torch.set_num_threads(1)
    flow = load("photos").sized(side, side)
    noise, half = Noise(0, rows), torch.tensor(0.5, dtype=torch.float64)
    x = flow.source(noise)
    still, asked = Still(x), (lambda: flow.velocity(x, half))
    _seconds(asked)
    print(
        f"| solver, {rows} x {side} x {side}, {steps} steps | own time per step, ms | network, ms | share (quartiles) |"
    )
    print("| --- |" + " --- |" * 3)
    for words in (*FEW, "ab:order=4", "res:order=3", "unipc:order=4", "er_sde", "ancestral_euler"):
        solve = partial(solver_of(words), still, x, uniform(steps), noise=noise)
        _seconds(lambda: run(solve()))  # noqa: B023
        pairs = [(_seconds(asked), _seconds(lambda: run(solve())) / steps) for _ in range(rounds)]  # noqa: B023
        network, own = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        print(f"| {words} | {own:.3f} | {network:.1f} | {middle:.2%} ({low:.2%} to {high:.2%}) |", flush=True)


class Still(Pixels):
    """A velocity that costs nothing."""

    path = staticmethod(linear)

    def __init__(self, like: Tensor):
        self.shape, self.v = tuple(like.shape[1:]), like

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.v


@torch.no_grad()
def _seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


@app.command()
def show(files: Annotated[list[Path], typer.Argument(help="CSV files of `distance`")]) -> None:
    """The tables: mean distance with 95 % intervals over pictures, and the margin over UniPC-2 on the same noises."""
    for name, grid, table in _read(files):
        counts = sorted({n for _, n in table})
        print(f"\n| {name}, grid {grid}: solver | {' | '.join(map(str, counts))} |\n| --- |{' --- |' * len(counts)}")
        for words in dict.fromkeys(w for w, _ in table):
            cells = []
            for n in counts:
                here, rival = table.get((words, n)), table.get((RIVAL, n))
                if here is None:
                    cells.append("")
                    continue
                mean, half = interval(here.tolist())
                margin = ""
                if rival is not None and words != RIVAL and grid == "own":
                    share, width = interval(((here - rival) / rival.mean()).tolist())
                    margin = f" ({100 * share:+.0f} ± {100 * width:.0f} %)"
                cells.append(f"{mean:.4f} ± {half:.4f}{margin}")
            print(f"| {words} | {' | '.join(cells)} |")


@app.command("table")
def table_(
    files: Annotated[list[Path], typer.Argument(help="CSV files of `distance`")],
    out: Annotated[Path, typer.Option(help="JSON file, replaced")] = Path("solvers.json"),
) -> None:
    """The least distance of each prior and number of steps, among solvers of one evaluation a step: what `--solver auto` takes."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for name, grid, table in _read(files):
        for (words, n), each in table.items():
            if steps_for(words, n) != n or words == "euler":
                continue
            mean, best = float(each.mean()), found.setdefault(name, {}).get(str(n))
            if best is None or mean < float(str(best["error"])):
                found[name][str(n)] = {"solver": words, "grid": grid, "error": round(mean, 5)}
    ordered = {name: dict(sorted(of.items(), key=lambda pair: int(pair[0]))) for name, of in sorted(found.items())}
    out.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    print(f"wrote {out}")


@app.command()
def plot(
    files: Annotated[list[Path], typer.Argument(help="CSV files of `distance`")],
    out: Annotated[Path, typer.Option(help="PNG")] = Path("sampling.png"),
) -> None:
    """Error against evaluations, a panel per prior, and the two mixtures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = ("euler", "ab", RIVAL, "unipc", "unipc:order=3", "ghvb:order=1.8", "dual_fast:base=unipc,strength=0.1")
    colours = dict(
        zip(drawn, ("#888888", "#1f77b4", "#d62728", "#2ca02c", "#17becf", "#9467bd", "#ff7f0e"), strict=True)
    )
    panels: list[tuple[str, dict[str, list[tuple[int, float]]]]] = []
    for kind, std in (("smooth", 0.6), ("sharp", 0.15)):
        flow, x = mixture(std)
        exact = run(sample.rk4(flow, x, uniform(400))).x
        lines = {
            w: [(n, float(_error(flow, solver_of(w), x, exact, n))) for n in (4, 5, 6, 8, 10, 12, 16, 24, 32)]
            for w in drawn
        }
        panels.append((f"{kind} mixture", lines))
    for name, grid, table in _read(files):
        if grid == "own":
            panels.append(
                (
                    name,
                    {
                        w: [
                            (n, float(e.mean())) for (v, n), e in sorted(table.items(), key=lambda p: p[0][1]) if v == w
                        ]
                        for w in drawn
                    },
                )
            )
    figure, axes = pyplot.subplots(
        2, (len(panels) + 1) // 2, figsize=(4.2 * ((len(panels) + 1) // 2), 7), squeeze=False
    )
    for axis, (title, lines) in zip(axes.flat, panels, strict=False):
        for words, points in lines.items():
            if points:
                axis.loglog(*zip(*points, strict=True), marker="o", ms=3, lw=1.4, color=colours[words], label=words)
        axis.set_title(title)
        axis.set_xlabel("evaluations")
        axis.set_ylabel("distance to the solution (rms)")
        ticks = [4, 6, 8, 10, 16, 25, 32]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(out, dpi=110)
    print(f"wrote {out}")


def _read(files: list[Path]) -> list[tuple[str, str, dict[tuple[str, int], Tensor]]]:
    """Prior, grid, and (solver, evaluations) -> the distance of each picture."""
    found: dict[tuple[str, str], dict[tuple[str, int], Tensor]] = {}
    for file in files:
        for row in kept.read(file):
            each = torch.tensor([float(e) for e in row["each"].split()], dtype=torch.float64)
            found.setdefault((row["prior"], row["grid"]), {})[row["solver"], int(row["evaluations"])] = each
    return [(name, grid, table) for (name, grid), table in found.items()]


if __name__ == "__main__":
    app()
