"""The frontier of fine-tuning: how much reward at the same distance from the prior, method by method.

    python -m flowhelm.bench.quality.aligning run --data fashion_mnist.npz --out runs/aligning     trains; the same command goes on
    python -m flowhelm.bench.quality.aligning csv runs/aligning --out aligning.csv                 a row per check of every run
    python -m flowhelm.bench.quality.aligning table aligning.csv                                   reward at equal distance, and the rest
    python -m flowhelm.bench.quality.aligning plot aligning.csv --out aligning.png                 --over evaluations: along the training
    python -m flowhelm.bench.quality.aligning sheet runs/aligning --out aligned.png                what each method draws
    python -m flowhelm.bench.quality.aligning cost                                                 an update of each

and of `aerial`: `run --prior aerial --data rsscn7_128.zip --split split.json --settings runs/aligning --out runs/aligning_aerial`, and the
same commands for the rest.

Every run is `flowhelm align PRIOR`: a LoRA of rank 8, and the same evaluations of the network in all, checks left out; how many, of how
many pictures and by how many steps of the sampler, `FRONTIERS` says. Each check draws pictures from the same noise as the prior's and
measures them (`flowhelm.app.tune.check`).
Two rewards: mean brightness of bags (of forests, told their detail too); log-probability of that class by the project's classifier, of
pictures that are drawn without a class. Beside the first the held-out reward is the classifier's, of the class that was asked for; beside
the second that of a classifier from another seed. `aerial` has a second one: colourfulness beside the first, and beside the second how
well the pictures compress as JPEG. Learning rate and strength are the better of those in `GRID`, by the highest reward within a distance
on coats in the place of bags, with another seed and half of the evaluations; `--settings` takes those that another prior's runs found.

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
from typing import Annotated, Any, Literal, NamedTuple

import torch
import typer
from torch import Tensor

from ... import priors, rewards, steer, tune
from ...app.files.atomic import put, put_picture
from ...app.run import drive, signals
from ...app.show.figures import figure, png
from ...app.show.sheet import sheet, top
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


class Frontier(NamedTuple):
    """What of a prior is compared, and how much is spent on it."""

    label: str
    """The class that is made brighter, or that the classifier is asked about."""
    other: str
    """That of the search for settings."""
    numbers: Mapping[str, float]
    """What every picture is told beside its class."""
    steps: int
    """Of the sampler."""
    rows: int
    """Pictures of an update."""
    checked: int
    """Pictures of a check."""
    every: int
    """Evaluations between two checks,"""
    most: int
    """or so many updates, if they are fewer."""
    budget: int
    """Evaluations of a run."""
    draws: Sequence[int]
    """N of best of N, and of the particles."""
    levels: tuple[float, float, float]
    """Squared Fréchet distances to the prior's pictures at which rewards are compared; three colours have three times the distance."""
    watched: Mapping[str, str]
    """A second held-out reward for each reward."""


FRONTIERS = {
    "fashion": Frontier("bag", "coat", {}, 10, 16, 64, 1600, 11, 8000, (2, 4, 8, 16), (0.1, 0.5, 1.0), {}),
    "aerial": Frontier(
        "forest", "river or lake", {"detail": 0.04}, 5, 4, 16, 200, 5, 800, (2, 4, 8), (0.3, 1.5, 3.0),
        {"brightness": "colourfulness", "class": "compressibility"},
    ),
}  # fmt: skip
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
GROUPED = ("flow_grpo", "diffusion_nft")
PER_PICTURE = {
    "vgg_flow": 25, "vgg_pmp": 26, "adjoint_matching": 26, "nabla_db": 22, "flow_grpo": 40, "diffusion_nft": 20, "draft": 10, "refl": 9,
}  # fmt: skip
"""Evaluations of the network for a picture of an update of 10 steps, about: so that checks come as often."""
WATCHED: dict[str, Reward] = {"colourfulness": rewards.colourfulness, "compressibility": rewards.Compressibility()}
AGAIN = "again"
"""In the place of a method: the prior's pictures from other noise, of which the distance says what chance alone makes of it."""
SCORES, LOOKS = ("value", "held out", "held out too"), ("dark", "edges", "saturation")
END = ("value", "held out", "frechet", "diversity", "edges")
MEASURED = ("diversity", "frechet", *LOOKS)


def weights(prior: str, work: Path, seed: int) -> Path:
    """Of the classifier from a seed."""
    return work / str(seed) / f"{prior}_classifier.safetensors"


def asked(
    prior: str, reward: str, method: str, setting: Mapping[str, float], seed: int, label: str, work: Path, out: Path, budget: int
) -> AlignRequest:  # fmt: skip
    """One run, as it is asked of `flowhelm align`."""
    of = FRONTIERS[prior]
    mine, other = (f"classifier:weights={weights(prior, work, i)},label={label}" for i in (0, 1))
    bright, updates = reward == "brightness", round(of.every / of.rows / (PER_PICTURE[method] * of.steps / 10))
    options: dict[str, Any] = {"steps": of.steps} | {k: v * UNIT[reward] for k, v in setting.items() if k != "rate"}
    options |= {"group": min(8, of.rows)} if method in GROUPED else {}
    return AlignRequest(
        prior=prior, classes=[label] if bright else [], numbers=dict(of.numbers), reward=["brightness" if bright else mine],
        held_out=[mine if bright else other, *([of.watched[reward]] if reward in of.watched else [])],
        method=method, method_options=options, rate=setting["rate"], rows=of.rows, updates=100_000, budget=budget, checked=of.checked,
        check_every=max(1, min(of.most, updates)), check_steps=of.steps, least_diversity=0, patience=1000,
        seed=seed, out=out, threads=1, minutes=1000,
    )  # fmt: skip


def rows_of(
    folder: Path, prior: str, reward: str, method: str, seed: int, setting: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The checks of a run that has ended."""
    checks = kept.read(folder / "checks.csv")
    seconds = {row["update"]: float(row["seconds"]) for row in kept.read(folder / "log.csv")}
    scored = [name for name in checks[0] if f"{name} error" in checks[0]]
    return [
        _row(
            prior, reward, method, seed, row["evaluations"], row["update"], [row[name] for name in scored], row,
            f"{seconds.get(row['update'], 0.0):.1f}", setting,
        )
        for row in checks
    ]  # fmt: skip


def _row(
    prior: str, reward: str, method: str, seed: int, evaluations: Any, update: Any, scores: Sequence[Any], found: Mapping[str, Any],
    seconds: str, setting: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """A row of the measurement: the reward, one held out or two, and the rest of a check."""
    value, beside, *more = scores
    return {
        "prior": prior, "reward": reward, "method": method, "seed": seed, "evaluations": evaluations, "update": update, "value": value,
        "held out": beside, "held out too": more[0] if more else "", **{name: found[name] for name in MEASURED}, "seconds": seconds,
        "setting": json.dumps(dict(setting)),
    }  # fmt: skip


def at_distance(rows: Sequence[Mapping[str, Any]], level: float, column: str = "value") -> float:
    """A column where a run first reaches a squared distance from the prior, interpolated between two checks; nan if it never does.

    Linearly in the distance itself: of a small change of the law it is what grows as the change does, and as a reward does.
    """
    for before, after in pairwise(rows):
        near, far = (max(0.0, float(row["frechet"])) for row in (before, after))
        if near < level <= far:
            share = (level**0.5 - near**0.5) / (far**0.5 - near**0.5)
            return (1 - share) * float(before[column]) + share * float(after[column])
    return math.nan


def best_within(rows: Sequence[Mapping[str, Any]], level: float) -> float:
    """The highest reward of a run at no more than a distance from the prior; where it crosses it counts, too."""
    inside = [float(row["value"]) for row in rows if float(row["frechet"]) <= level]
    crossing = at_distance(rows, level)
    return max([*inside, *([] if math.isnan(crossing) else [crossing])])


@app.command("run")
def train(
    data: Annotated[
        Path, typer.Option(help="the set's file, for the two classifiers: fashion_mnist.npz, rsscn7_128.zip")
    ],
    out: Annotated[Path, typer.Option(help="folder of the runs")],
    prior: Annotated[str, typer.Option(help=", ".join(FRONTIERS))] = "fashion",
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each")] = 3,
    budget: Annotated[int | None, typer.Option(min=1, help="evaluations of a run; default: the prior's")] = None,
    only: Annotated[list[str] | None, typer.Option(help="these rewards: brightness, class")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help=f"these methods, of {', '.join(GRID)}")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="folder of another prior's runs, whose settings are taken: nothing is searched")
    ] = None,
) -> None:
    """Search the settings on one class, then train on another; what is there is not done again, and Ctrl-C loses nothing."""
    for what, given, known in (("prior", [prior], FRONTIERS), ("method", methods, GRID), ("reward", only, UNIT)):
        if unknown := set(given or ()) - set(known):
            raise typer.BadParameter(f"{what}: expected {', '.join(known)}, got {', '.join(sorted(unknown))}")
    of, parts = FRONTIERS[prior], whole(prior, data, split)
    budget = budget or of.budget
    for seed in (0, 1) if "class" in (only or UNIT) else (0,):
        classifier(prior, parts, out / "work" / str(seed), seed)
    with signals():
        for reward in only or UNIT:
            found = _settings(settings, reward)
            chosen: dict[str, dict[str, float]] = {}
            for method in methods or GRID:
                if settings is not None and method not in found:
                    raise typer.BadParameter(
                        f"there are no settings of {method} in {settings}; search without --settings"
                    )
                chosen[method] = found.get(method) or _searched(prior, reward, method, out, budget // 2)
            file = out / reward / "settings.json"
            every = _settings(out, reward) | chosen
            file.parent.mkdir(parents=True, exist_ok=True)
            put(file, lambda path, kept=every: path.write_text(json.dumps(kept), "utf-8"))  # type: ignore[misc]
            for seed in range(seeds):
                for method, setting in chosen.items():
                    folder = out / reward / method / str(seed)
                    done(asked(prior, reward, method, setting, seed, of.label, out / "work", folder, budget))
                    print(f"{reward}, {method}, seed {seed}: done", flush=True)


def _settings(runs: Path | None, reward: str) -> dict[str, dict[str, float]]:
    """method -> the settings that were chosen in these runs; nothing where there are none."""
    file = (runs or Path()) / reward / "settings.json"
    return json.loads(file.read_text("utf-8")) if runs is not None and file.exists() else {}


def _searched(prior: str, reward: str, method: str, out: Path, budget: int) -> dict[str, float]:
    """The better settings of a method, on the other class."""
    of, found = FRONTIERS[prior], []
    for i, setting in enumerate(GRID[method]):
        folder = out / reward / method / f"search{i}"
        done(asked(prior, reward, method, setting, 100, of.other, out / "work", folder, budget))
        found.append(best_within(rows_of(folder, prior, reward, method, 100, setting), of.levels[-1]))
    best = GRID[method][found.index(max(found))]
    print(f"{reward}, {method}: {best} of {[round(each, 3) for each in found]}", flush=True)
    return best


def done(request: AlignRequest) -> None:
    """Makes a run unless its card is there, which is written last; of one that diverges the checks so far count."""
    assert request.out is not None
    if not (request.out / "README.md").exists():
        with suppress(Diverged):
            drive(align(request))


def runs_of(runs: Path) -> Iterator[tuple[str, str, str, Mapping[str, float], Path]]:
    """(prior, reward, method, its settings, folder) of every run that has ended."""
    for reward in UNIT:
        for method, setting in _settings(runs, reward).items():
            for folder in sorted(f for f in (runs / reward / method).glob("*") if f.name.isdigit()):
                if (folder / "README.md").exists():
                    told = json.loads((folder / "run.json").read_text("utf-8"))["settings"]
                    yield Path(told["prior"]).stem, reward, method, setting, folder


@app.command("csv")
def gathered(
    runs: Annotated[Path, typer.Argument(help="folder of the runs")],
    out: Annotated[Path, typer.Option(help="the rows")] = Path("aligning.csv"),
) -> None:
    """A row per check of every run, and of what trains nothing."""
    rows: list[Mapping[str, Any]] = []
    for prior, reward, method, setting, folder in runs_of(runs):
        rows += rows_of(folder, prior, reward, method, int(folder.name), setting)
    for prior, reward, seed in sorted({(row["prior"], row["reward"], row["seed"]) for row in rows}):
        rows += untrained(prior, reward, seed, runs)
    rows.sort(key=lambda row: list(UNIT).index(row["reward"]))  # of one reward: trained, then chosen
    kept.write(out, rows)


@torch.no_grad()
def untrained(prior: str, reward: str, seed: int, runs: Path) -> Sequence[Mapping[str, Any]]:
    """Best of N and Feynman-Kac particles of the prior, as rows, and its pictures from other noise; `evaluations` are of one picture.

    They are kept beside the runs, with a sheet of the pictures of the largest N, and made once.
    """
    file = runs / reward / "untrained" / f"{seed}.csv"
    if file.exists():
        return kept.read(file)
    of, bright, base = FRONTIERS[prior], reward == "brightness", priors.bundled.load(prior)
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = [dict(of.numbers)] if of.numbers else None
    flow = base.told([of.label] if bright else None, numbers=numbers) if bright or numbers else base
    label = list(base.about["classes"]).index(of.label)
    judges = [
        rewards.classified(rewards.classifier.read(weights(prior, runs / "work", i)), label)
        for i in ((0,) if bright else (0, 1))
    ]
    value: Reward = rewards.brightness if bright else judges[0]
    scored: dict[str, Reward] = {"value": value, "held out": judges[0] if bright else judges[1]}
    if reward in of.watched:
        scored["held out too"] = WATCHED[of.watched[reward]]
    times, drawn, began = uniform(of.steps), [], time.perf_counter()
    own, other = (Noise(seed, range(k * of.checked, (k + 1) * of.checked)) for k in (0, 1))
    for step in steer.best_of(flow, value, flow.source(own), times, draws=max(of.draws), noise=own):
        drawn.append(("best_of", step.index, step.x, time.perf_counter() - began))
    first = drawn[0][2]
    strength = 5 / float(value(first).std())
    for n in of.draws:
        began, many = time.perf_counter(), Noise(seed, range(of.checked)).spawn(n)
        steps = steer.fk(flow, value, flow.source(many), times, particles=n, strength=strength, noise=many)
        last = final(steps)
        drawn.append(("fk", n, last.x[last.info["best"]], time.perf_counter() - began))
    drawn.append((AGAIN, 1, final(steer.best_of(flow, value, flow.source(other), times, draws=1, noise=other)).x, 0.0))
    rows = []
    for method, n, x, seconds in drawn:
        if n in of.draws or method == AGAIN:
            found, per = check.measured(x, first, scored, torch.device("cpu")), f"{seconds / of.checked:.3f}"
            values = [found[name] for name in scored]
            rows.append(_row(prior, reward, method, seed, n * of.steps, n, values, found, per, {}))
        if n == max(of.draws):
            put_picture(file.with_name(f"{seed}-{method}.png"), sheet([("", x)]))
    kept.write(file, rows)
    return rows


def gains(by: Mapping[tuple[str, str], Mapping[int, Sequence[Mapping[str, str]]]], reward: str) -> dict[str, Any]:
    """method -> its runs, rewards as what was gained over the prior's pictures of the same seed; what trains nothing begins there."""
    first = {
        seed: run[0]
        for (kind, method), runs in by.items()
        if kind == reward and method in GRID
        for seed, run in runs.items()
    }
    out: dict[str, Any] = {}
    for method in dict.fromkeys(m for r, m in by if r == reward and m != AGAIN):
        for seed, run in by[reward, method].items():
            base = first[seed]
            rows = [dict(row) for row in (run if method in GRID else [base, *run])]
            for row in rows:
                row |= {name: str(float(row[name]) - float(base[name])) for name in SCORES if row.get(name)}
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


def frontier_of(by: Mapping[tuple[str, str], Mapping[int, Sequence[Mapping[str, str]]]]) -> tuple[str, Frontier]:
    """The prior of the rows, and what was compared of it."""
    prior = next(iter(next(iter(by.values())).values()))[0].get("prior", "fashion")
    return prior, FRONTIERS[prior]


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="of `csv`")]) -> None:
    """Reward at equal distance; at the middle one the held-out rewards, diversity and looks; the end of each run."""
    by = read(rows)
    _, of = frontier_of(by)
    for reward in dict.fromkeys(name for name, _ in by):
        runs = gains(by, reward)
        some = next(iter(runs.values()))[0][-1]
        columns = [
            name for name in (*SCORES[1:], "diversity", "dark", "edges", "saturation")
            if some.get(name) and not (name == "saturation" and float(some[name]) == 0)
        ]  # fmt: skip
        shown = {"held out too": of.watched.get(reward, ""), "held out": f"held out at {of.levels[1]:g}"}
        print(f"**{reward}**\n")
        levels = " | ".join(f"at {level:g}" for level in of.levels)
        middle = " | ".join(shown.get(name, name) for name in columns)
        print(
            f"| method | reward gained {levels} | {middle} | at the end: reward | held out | distance | diversity | edges |"
        )
        print("| --- |" + " --- |" * (len(of.levels) + len(columns) + len(END)))
        for method, each in runs.items():
            cells = [cell([at_distance(run, level) for run in each]) for level in of.levels]
            cells += [cell([at_distance(run, of.levels[1], column) for run in each]) for column in columns]
            cells += [cell([float(run[-1][column]) for run in each]) for column in END]
            print(f"| `{method}` | " + " | ".join(cells) + " |")
        any_trained = next(seeds for (kind, method), seeds in by.items() if kind == reward and method in GRID)
        first = [run[0] for run in any_trained.values()]  # every method begins there
        begun = ", ".join(f"{name} {cell([float(row[name]) for row in first])}" for name in columns if name in LOOKS)
        print(f"\nThe prior's own pictures: reward {cell([float(row['value']) for row in first])}, {begun}.", end="")
        if (reward, AGAIN) in by:
            chance = cell([float(run[0]["frechet"]) for run in by[reward, AGAIN].values()])
            print(f" From other noise they are at a distance of {chance}.", end="")
        print("\n")


@app.command()
def plot(
    rows: Annotated[Path, typer.Argument(help="of `csv`")],
    out: Annotated[Path, typer.Option(help="PNG")] = Path("aligning.png"),
    over: Annotated[
        Literal["distance", "evaluations"], typer.Option(help="what lies across: the latter of trained methods alone")
    ] = "distance",
) -> None:
    """Reward, held-out rewards and diversity against the distance from the prior, or along the training."""
    by = read(rows)
    _, of = frontier_of(by)
    far = over == "distance"
    kinds = list(dict.fromkeys(name for name, _ in by))
    second = any(row.get("held out too") for runs in by.values() for run in runs.values() for row in run)
    columns = [
        "value",
        "held out",
        *(["held out too"] if second else []),
        "diversity",
        *([] if far else ["edges", "frechet"]),
    ]
    made = figure(4.2 * len(columns), 3.4 * len(kinds))
    axes = made.subplots(len(kinds), len(columns), squeeze=False)
    for line, reward in enumerate(kinds):
        for place, method in enumerate(dict.fromkeys(m for r, m in by if r == reward and m != AGAIN)):
            trained = method in GRID
            if not (far or trained):
                continue
            runs = list(by[reward, method].values())
            for run in runs:
                for axis, column in zip(axes[line], columns, strict=True):
                    seen = [row for row in run if row.get(column)]
                    along = [max(float(row["frechet"]), 1e-3) if far else float(row["evaluations"]) for row in seen]
                    axis.plot(
                        along, [float(row[column]) for row in seen], "-" if trained else ":", marker="." if trained else "s",
                        color=f"C{place}", linewidth=1, markersize=3, label=method if run is runs[0] else None,
                    )  # fmt: skip
        named = {
            "value": "reward", "held out": "held-out reward", "held out too": f"held out: {of.watched.get(reward, '')}",
            "frechet": "distance from the prior",
        }  # fmt: skip
        for axis, column in zip(axes[line], columns, strict=True):
            if far:
                axis.set_xscale("log")
                axis.set_xlim(0.02, 200)  # beyond, nothing of the prior is left
            if column == "frechet":
                axis.set_yscale("log")
                axis.set_ylim(1e-2, 1e3)
            if column == "diversity":
                axis.set_ylim(0, 1.5)
            axis.set_xlabel(
                "squared Fréchet distance to the prior" if far else "evaluations of the network in training"
            )
            axis.set_title(f"{reward}: {named.get(column, column)}", fontsize=10)
    axes[0, 0].legend(fontsize=7)
    put(out, lambda temporary: temporary.write_bytes(png(made)))


@app.command("sheet")
def shown(
    runs: Annotated[Path, typer.Argument(help="folder of the runs")],
    reward: Annotated[str, typer.Option(help=", ".join(UNIT))] = "brightness",
    out: Annotated[Path, typer.Option(help="PNG")] = Path("aligned.png"),
    seed: Annotated[int, typer.Option(help="of the runs that are shown")] = 0,
) -> None:
    """Six pictures of each method from the same noise: where it is first beyond the middle distance, and at its end."""
    lines: list[tuple[str, Tensor]] = []
    for prior, kind, method, _, folder in runs_of(runs):
        if (kind, folder.name) != (reward, str(seed)):
            continue
        side, level = priors.bundled.load(prior).shape[-1], FRONTIERS[prior].levels[1]
        checks = kept.read(folder / "checks.csv")
        beyond = next((row for row in checks if float(row["frechet"]) > level), checks[-1])
        read_at = lambda row, at=folder, size=side: top(at / "samples" / f"{int(row['update']):07d}.png", size)  # noqa: E731
        white = torch.ones_like(read_at(beyond)[:1])
        if not lines:
            lines.append(("the prior", read_at(checks[0])))
        lines.append((method, torch.cat([read_at(beyond), white, read_at(checks[-1])])))
    if not lines:
        raise typer.BadParameter(f"there is no finished run of {reward} from seed {seed} in {runs}")
    for name in ("best_of", "fk"):
        if (file := runs / reward / "untrained" / f"{seed}-{name}.png").exists():
            lines.append((name, top(file, side)[: len(lines[0][1])]))
    put_picture(out, sheet(lines))


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
    of = FRONTIERS["fashion"]
    made = method(
        trained, frozen, rewards.brightness, torch.optim.AdamW(groups, 1e-3), noise=Noise(0, range(of.rows)), steps=of.steps,
        updates=updates + 1, **more,
    )  # fmt: skip
    next(made)
    rows, backward, began = count.rows, count.backward, time.perf_counter()
    for _ in range(updates):
        next(made)
    seconds = time.perf_counter() - began
    return (
        (count.rows - rows) / updates / of.rows,
        (count.backward - backward) / updates,
        seconds / updates,
    )


if __name__ == "__main__":
    app()
