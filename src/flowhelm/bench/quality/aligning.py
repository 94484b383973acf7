"""The frontier of fine-tuning: how much reward at the same distance from the prior, method by method.

    python -m flowhelm.bench.quality.aligning run --data fashion_mnist.npz --out runs/aligning     trains; the same command goes on
    python -m flowhelm.bench.quality.aligning csv runs/aligning --out aligning.csv                 a row per check of every run
    python -m flowhelm.bench.quality.aligning table aligning.csv                                   reward at equal distance, and the rest
    python -m flowhelm.bench.quality.aligning plot aligning.csv --out aligning.png
    python -m flowhelm.bench.quality.aligning cost                                                 an update of each

Every run is `flowhelm align fashion`: a LoRA of rank 8, 16 pictures of an update, 10 steps of the sampler, and the same
evaluations of the network in all, checks left out. Each check draws 64 pictures from the same noise as the prior's and measures
them (`flowhelm.app.tune.check`).
Two rewards: mean brightness of bags; log-probability of the class bag by the project's classifier, of pictures that are drawn without a
class. Beside the first the held-out reward is the classifier's, of the class that was asked for; beside the second that of a classifier
from another seed. Learning rate and strength are the better of those in `GRID`, by the highest reward within a distance of 1 on coats
in the place of bags, with another seed and half of the evaluations.

Best of N and Feynman-Kac particles train nothing: each picture is chosen among N, at N times the price of every picture.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import priors, rewards, steer, tune
from ...app.files.atomic import put
from ...app.run import drive
from ...app.show.figures import figure, png
from ...app.tune import check
from ...app.tune.request import AlignRequest
from ...app.tune.run import align
from ...grids import uniform
from ...guide.counted import Count, Counted
from ...learning import Copy
from ...rng import Noise
from ...step import Diverged, Reward
from ...step import run as final
from .. import kept
from ..intervals import interval
from .classifier import classifier, whole

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
STEPS, ROWS, CHECKED, EVERY = 10, 16, 64, 1600
"""Of the sampler; pictures of an update; pictures of a check; evaluations between two checks."""
GRID: dict[str, list[dict[str, float]]] = {
    **{
        name: [{"rate": 3e-3, "beta": beta} for beta in (1.0, 10.0)]
        for name in ("vgg_flow", "vgg_pmp", "adjoint_matching", "nabla_db")
    },
    **{name: [{"rate": rate} for rate in (3e-3, 1e-2)] for name in ("flow_grpo", "diffusion_nft")},
    **{name: [{"rate": rate} for rate in (1e-3, 3e-3)] for name in ("draft", "refl")},
}
UNIT = {"brightness": 100.0, "class": 1.0}
"""What a strength of 1 is, for each reward: their spreads over the prior's pictures are about 0.15 and 3."""
PER_PICTURE = {
    "vgg_flow": 25, "vgg_pmp": 26, "adjoint_matching": 26, "nabla_db": 22, "flow_grpo": 40, "diffusion_nft": 20, "draft": 10, "refl": 9,
}  # fmt: skip
"""Evaluations of the network for a picture of an update, about: so that checks come as often."""
NAME = "fashion_classifier.safetensors"
LEVELS, SEARCHED = (0.1, 0.5, 1.0), 1.0
"""Squared Fréchet distances to the prior's pictures at which rewards are compared, and that of the search."""
FIELDS = (
    "reward", "method", "seed", "evaluations", "update", "value", "held out", "diversity", "frechet", "dark", "edges", "seconds", "setting",
)  # fmt: skip


def asked(
    reward: str, method: str, setting: Mapping[str, float], seed: int, label: str, work: Path, out: Path, budget: int
) -> AlignRequest:
    """One run, as it is asked of `flowhelm align`."""
    mine, other = (f"classifier:weights={work / str(i) / NAME},label={label}" for i in (0, 1))
    bright = reward == "brightness"
    options: dict[str, Any] = {"steps": STEPS} | {k: v * UNIT[reward] for k, v in setting.items() if k != "rate"}
    return AlignRequest(
        prior="fashion", classes=[label] if bright else [], reward=["brightness" if bright else mine], held_out=[mine if bright else other],
        method=method, method_options=options, rate=setting["rate"], rows=ROWS, updates=100_000, budget=budget, checked=CHECKED,
        check_every=max(1, round(EVERY / ROWS / PER_PICTURE[method])), check_steps=STEPS, least_diversity=0, patience=1000, seed=seed,
        out=out, threads=1, minutes=1000,
    )  # fmt: skip


def rows_of(folder: Path, reward: str, method: str, seed: int, setting: Mapping[str, float]) -> list[dict[str, Any]]:
    """The checks of a run that has ended."""
    checks = kept.read(folder / "checks.csv")
    seconds = {row["update"]: float(row["seconds"]) for row in kept.read(folder / "log.csv")}
    value, beside = (name for name in list(checks[0])[2:6] if not name.endswith(" error"))
    return [
        {
            "reward": reward, "method": method, "seed": seed, "evaluations": row["evaluations"], "update": row["update"],
            "value": row[value], "held out": row[beside], "diversity": row["diversity"], "frechet": row["frechet"], "dark": row["dark"],
            "edges": row["edges"], "seconds": f"{seconds.get(row['update'], 0.0):.1f}", "setting": json.dumps(dict(setting)),
        }
        for row in checks
    ]  # fmt: skip


def at_distance(rows: Sequence[Mapping[str, Any]], level: float, column: str = "value") -> float:
    """A column where a run first reaches a distance from the prior, by linear interpolation between two checks; nan if it never does."""
    for before, after in pairwise(rows):
        near, far = float(before["frechet"]), float(after["frechet"])
        if near < level <= far:
            share = (level - near) / (far - near)
            return (1 - share) * float(before[column]) + share * float(after[column])
    return math.nan


def best_within(rows: Sequence[Mapping[str, Any]], level: float) -> float:
    """The highest reward of a run at no more than a distance from the prior; where it crosses it counts, too."""
    inside = [float(row["value"]) for row in rows if float(row["frechet"]) <= level]
    crossing = at_distance(rows, level)
    return max([*inside, *([] if math.isnan(crossing) else [crossing])])


@app.command("run")
def train(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz, for the two classifiers")],
    out: Annotated[Path, typer.Option(help="folder of the runs")],
    seeds: Annotated[int, typer.Option(min=1, help="runs of each")] = 3,
    budget: Annotated[int, typer.Option(min=100, help="evaluations of a run")] = 8_000,
    only: Annotated[list[str] | None, typer.Option(help="these rewards: brightness, class")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help=f"these methods, of {', '.join(GRID)}")] = None,
) -> None:
    """Search the settings on coats, then train on bags; what is there is not done again."""
    if unknown := set(methods or ()) - set(GRID):
        raise typer.BadParameter(f"expected methods of {', '.join(GRID)}, got {', '.join(sorted(unknown))}")
    parts = whole("fashion", data, None)
    for seed in (0, 1):
        classifier("fashion", parts, out / "work" / str(seed), seed)
    for reward in only or UNIT:
        chosen: dict[str, dict[str, float]] = {}
        for method, settings in ((name, GRID[name]) for name in methods or GRID):
            found = []
            for i, setting in enumerate(settings):
                folder = out / reward / method / f"search{i}"
                done(asked(reward, method, setting, 100, "coat", out / "work", folder, budget // 2))
                found.append(best_within(rows_of(folder, reward, method, 100, setting), SEARCHED))
            chosen[method] = settings[found.index(max(found))]
            print(f"{reward}, {method}: {chosen[method]} of {[round(each, 3) for each in found]}", flush=True)
        file = out / reward / "settings.json"
        every = (json.loads(file.read_text("utf-8")) if file.exists() else {}) | chosen
        put(file, lambda path, kept=every: path.write_text(json.dumps(kept), "utf-8"))  # type: ignore[misc]
        for seed in range(seeds):
            for method, setting in chosen.items():
                done(
                    asked(reward, method, setting, seed, "bag", out / "work", out / reward / method / str(seed), budget)
                )
                print(f"{reward}, {method}, seed {seed}: done", flush=True)


def done(request: AlignRequest) -> None:
    """Makes a run unless its card is there, which is written last; of one that diverges the checks so far count."""
    assert request.out is not None
    if not (request.out / "README.md").exists():
        with suppress(Diverged):
            drive(align(request))


@app.command("csv")
def gathered(
    runs: Annotated[Path, typer.Argument(help="folder of the runs")],
    out: Annotated[Path, typer.Option(help="the rows")] = Path("aligning.csv"),
) -> None:
    """A row per check of every run, and of what trains nothing."""
    rows: list[dict[str, Any]] = []
    for reward in UNIT:
        if not (runs / reward / "settings.json").exists():
            continue
        settings = json.loads((runs / reward / "settings.json").read_text("utf-8"))
        for method, setting in settings.items():
            for folder in sorted(f for f in (runs / reward / method).iterdir() if f.name.isdigit()):
                if (folder / "README.md").exists():
                    rows += rows_of(folder, reward, method, int(folder.name), setting)
        seeds = sorted({int(row["seed"]) for row in rows if row["reward"] == reward})
        for seed in seeds:
            rows += untrained(reward, seed, runs / "work")
    kept.write(out, rows)


@torch.no_grad()
def untrained(reward: str, seed: int, work: Path) -> Iterator[dict[str, Any]]:
    """Best of N and Feynman-Kac particles of the prior, for N = 1, 2, 4, 8 and 16, as rows; `evaluations` are of one picture."""
    bright, base = reward == "brightness", priors.bundled.load("fashion")
    flow = base.told(["bag"]) if bright else base
    label = list(base.about["classes"]).index("bag")
    judges = [rewards.classified(rewards.classifier.read(work / str(i) / NAME), label) for i in (0, 1)]
    value: Reward = rewards.brightness if bright else judges[0]
    beside = judges[0] if bright else judges[1]
    numbers = Noise(seed, range(CHECKED))
    first = final(steer.best_of(flow, value, flow.source(numbers), uniform(STEPS), draws=1, noise=numbers)).x
    strength = 5 / float(value(first).std())
    for method in ("best_of", "fk"):
        for n in (2, 4, 8, 16):
            began = time.perf_counter()
            if method == "best_of":
                x = final(steer.best_of(flow, value, flow.source(numbers), uniform(STEPS), draws=n, noise=numbers)).x
            else:
                many = numbers.spawn(n)
                last = final(
                    steer.fk(flow, value, flow.source(many), uniform(STEPS), particles=n, strength=strength, noise=many)
                )
                x = last.x[last.info["best"]]
            yield _row(reward, method, seed, n, x, first, value, beside, time.perf_counter() - began)


def _row(
    reward: str, method: str, seed: int, n: int, x: Tensor, first: Tensor, value: Reward, beside: Reward, seconds: float
) -> dict[str, Any]:
    found = check.measured(x, first, {"value": value, "held out": beside}, torch.device("cpu"))
    kept = {name: found[name] for name in ("value", "held out", "diversity", "frechet", "dark", "edges")}
    return {
        "reward": reward, "method": method, "seed": seed, "evaluations": n * STEPS, "update": n, **kept,
        "seconds": f"{seconds / CHECKED:.3f}", "setting": "{}",
    }  # fmt: skip


def gains(by: Mapping[tuple[str, str], Mapping[int, Sequence[Mapping[str, str]]]], reward: str) -> dict[str, Any]:
    """method -> its runs, rewards as what was gained over the prior's pictures of the same seed; what trains nothing begins there."""
    first = {
        seed: run[0]
        for (kind, method), runs in by.items()
        if kind == reward and method in GRID
        for seed, run in runs.items()
    }
    out: dict[str, Any] = {}
    for method in dict.fromkeys(m for r, m in by if r == reward):
        for seed, run in by[reward, method].items():
            base = first[seed]
            rows = [dict(row) for row in (run if method in GRID else [base, *run])]
            for row in rows:
                row |= {name: str(float(row[name]) - float(base[name])) for name in ("value", "held out")}
            out.setdefault(method, []).append(rows)
    return out


def read(path: Path) -> dict[tuple[str, str], dict[int, list[dict[str, str]]]]:
    """(reward, method) -> seed -> its rows in order."""
    out: dict[tuple[str, str], dict[int, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in kept.read(path):
        out[row["reward"], row["method"]][int(row["seed"])].append(row)
    return out


def cell(values: Sequence[float]) -> str:
    """Mean and half the width of a 95 % interval by Student's law; a dash where a run is missing, "beyond" of a run that diverged."""
    if any(math.isnan(value) for value in values):
        return f"- ({sum(not math.isnan(v) for v in values)} of {len(values)})"
    return interval(values).shown(2) if abs(sum(values)) < 1000 * len(values) else "beyond"


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="of `csv`")]) -> None:
    """Reward at equal distance; at the middle one the held-out reward, diversity and looks; the end of each run."""
    by = read(rows)
    for reward in dict.fromkeys(name for name, _ in by):
        print(f"**{reward}**\n")
        levels = " | ".join(f"at {level:g}" for level in LEVELS)
        print(
            f"| method | reward gained {levels} | held out at {LEVELS[1]:g} | diversity | dark | edges "
            "| at the end: reward | distance | diversity |"
        )
        print("| --- |" + " --- |" * (len(LEVELS) + 7))
        for method, runs in gains(by, reward).items():
            cells = [cell([at_distance(run, level) for run in runs]) for level in LEVELS]
            cells += [
                cell([at_distance(run, LEVELS[1], column) for run in runs])
                for column in ("held out", "diversity", "dark", "edges")
            ]
            cells += [cell([float(run[-1][column]) for run in runs]) for column in ("value", "frechet", "diversity")]
            print(f"| `{method}` | " + " | ".join(cells) + " |")
        print()


@app.command()
def plot(
    rows: Annotated[Path, typer.Argument(help="of `csv`")],
    out: Annotated[Path, typer.Option(help="PNG")] = Path("aligning.png"),
) -> None:
    """Reward, held-out reward and diversity against the distance from the prior."""
    by = read(rows)
    kinds, columns = list(dict.fromkeys(name for name, _ in by)), ("value", "held out", "diversity")
    made = figure(4.2 * len(columns), 3.4 * len(kinds))
    axes = made.subplots(len(kinds), len(columns), squeeze=False)
    for line, reward in enumerate(kinds):
        for place, method in enumerate(dict.fromkeys(m for r, m in by if r == reward)):
            for run in by[reward, method].values():
                for axis, column in zip(axes[line], columns, strict=True):
                    trained = method in GRID
                    axis.plot(
                        [max(float(row["frechet"]), 1e-3) for row in run], [float(row[column]) for row in run],
                        "-" if trained else ":", marker="." if trained else "s", color=f"C{place}", linewidth=1, markersize=3,
                        label=method if run is next(iter(by[reward, method].values())) else None,
                    )  # fmt: skip
        for axis, column in zip(axes[line], columns, strict=True):
            axis.set_xscale("log")
            axis.set_xlim(0.02, 200)  # beyond, nothing of the prior is left
            if column == "diversity":
                axis.set_ylim(0, 1.5)
            axis.set_xlabel("squared Fréchet distance to the prior")
            axis.set_title(
                f"{reward}: {'reward' if column == 'value' else column.replace('held out', 'held-out reward')}",
                fontsize=10,
            )
    axes[0, 0].legend(fontsize=7)
    put(out, lambda temporary: temporary.write_bytes(png(made)))


@app.command()
def cost(updates: Annotated[int, typer.Option(min=1, help="of each, after one that is not timed")] = 3) -> None:
    """What an update of each method costs, counted and timed: 16 bags, 10 steps, options as they are by default."""
    print(
        "| method | evaluations per picture | backward passes | seconds | of DRaFT's |\n| --- | --- | --- | --- | --- |"
    )
    taken: dict[str, tuple[float, float, float]] = {}
    for method in tune.ALL:
        taken[method.__name__] = _cost(method, updates)
    for name, (rows, backward, seconds) in taken.items():
        print(f"| `{name}` | {rows:.0f} | {backward:.0f} | {seconds:.2f} | {seconds / taken['draft'][2]:.2f} |")


def _cost(method: Callable[..., Any], updates: int) -> tuple[float, float, float]:
    import inspect

    base, count, wanted = priors.bundled.load("fashion"), Count(), inspect.signature(method).parameters
    flow, value = base.with_lora(8), priors.field(base) if "value" in wanted else None
    groups = [{"params": flow.trained()}, *([{"params": list(value.parameters())}] if value is not None else [])]
    more: dict[str, Any] = {"value": value} if value is not None else {}
    more |= {"old": Copy(flow.trained())} if "old" in wanted else {}
    more |= {"group": 8} if "group" in wanted else {}
    trained, frozen = (Counted(each.told(["bag"]), count) for each in (flow, base))
    made = method(
        trained, frozen, rewards.brightness, torch.optim.AdamW(groups, 1e-3), noise=Noise(0, range(ROWS)), steps=STEPS,
        updates=updates + 1, **more,
    )  # fmt: skip
    next(made)
    rows, backward, began = count.rows, count.backward, time.perf_counter()
    for _ in range(updates):
        next(made)
    seconds = time.perf_counter() - began
    return (count.rows - rows) / updates / ROWS, (count.backward - backward) / updates, seconds / updates


if __name__ == "__main__":
    app()
