"""Sets of pictures by solver and evaluations: how far they are from real ones, and how many are what they were told to be.

    python -m flowhelm.bench.quality.sampling sets fashion --data fashion_mnist.npz --work bench --csv sets.csv
    python -m flowhelm.bench.quality.sampling sets photos --data test_photos.zip --csv sets.csv
    python -m flowhelm.bench.quality.sampling show-sets sets.csv --plot sets.png
    python -m flowhelm.bench.quality.sampling pictures sets.csv --out solvers.json     what `--solver auto` takes at 4 evaluations

Squared Fréchet distance (`metrics.frechet`) to the test part in the features of the classifier of `bench.quality.classifier`, and that
classifier's accuracy, as in `bench.quality.generation`. `photos` has no classes: its distance is of 8 x 8 patches from centre crops of
photographs, as in `bench.quality.bottleneck`. Distances depend on how many pictures there are, so beside them stands that of as many real
training pictures; all solvers draw from the same noises. Rows are appended as they are finished; the same command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ...app.draw.solvers import solver_of
from ...app.files.dataset import pictures as crops
from ...metrics import frechet_features
from ...rewards.classifier import scaled
from ...rng import Noise
from ...step import run
from .. import kept
from ..intervals import interval
from .bottleneck import distance
from .classifier import classifier, whole
from .solver_rows import RIVAL, Rows, steps_for, told

MAIN = (
    "euler", "midpoint", "ab", "dpm:variable=log", RIVAL, "unipc", "ghvb:order=1.8", "dual_fast:base=unipc,strength=0.1",
)  # fmt: skip
COLOURS = ("#888888", "#8c564b", "#1f77b4", "#e377c2", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
PHOTOGRAPHS = 64
Judge = Callable[[Tensor], dict[str, str]]


def drawn(name: str, words: str, steps: int, count: int, seed: int, batch: int) -> Tensor:
    """Pictures `(count, c, h, w)` as uint8, number i of class i modulo the classes, whatever the batch."""
    parts = []
    for first in range(0, count, batch):
        rows = list(range(first, min(first + batch, count)))
        flow, noise = told(name, rows, None), Noise(seed, rows)
        end = run(solver_of(words)(flow, flow.source(noise), flow.times(steps), noise=noise.named("solver"))).x
        parts.append(((end.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(parts)


def judge(name: str, data: Path, work: Path | None, split: Path | None, count: int) -> Judge:
    """What says of `count` pictures how good they are."""
    if name == "photos":
        real = crops(data, channels=3, size=64, images=PHOTOGRAPHS, spread=True).clean
        return lambda pictures: {
            "frechet": f"{distance(scaled(pictures), real)[0]:.4f}",
            "reference": "",
            "accuracy": "",
        }
    if work is None:
        raise typer.BadParameter("work: expected the folder of the classifier's weights; give --work")
    parts = whole(name, data, split)
    net = classifier(name, parts, work)
    (train, shown), (test, labels) = parts["train"], parts["test"]
    classes, order = int(labels.max()) + 1, torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    wanted = torch.arange(count) % classes
    some = [
        order[shown[order] == c][: int((wanted == c).sum())] for c in range(classes)
    ]  # as many of each as are drawn
    real = net.judge(test)[0]
    reference = float(frechet_features(net.judge(train[torch.cat(some)])[0], real))

    def judged(pictures: Tensor) -> dict[str, str]:
        features, seen = net.judge(pictures)
        found = {"frechet": f"{float(frechet_features(features, real)):.4f}", "reference": f"{reference:.4f}"}
        return found | {"accuracy": f"{float((seen == wanted).double().mean()):.4f}"}

    return judged


def sets(
    name: Annotated[str, typer.Argument(help="fashion, aerial, animals or photos")],
    data: Annotated[Path, typer.Option(help="the set's file; for photos photographs: a zip archive or a folder")],
    work: Annotated[Path | None, typer.Option(help="folder for the classifier's weights")] = None,
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    pictures: Annotated[int, typer.Option(help="of each seed; distances depend on it", min=2)] = 200,
    seeds: Annotated[int, typer.Option(help="of the noise", min=1)] = 3,
    counts: Annotated[str, typer.Option(help="evaluations, with commas")] = "4,6,8,10,15,25,50",
    solvers: Annotated[str, typer.Option(help="main, or words with semicolons between them")] = "main",
    batch: Annotated[int, typer.Option(help="pictures at a time; of no effect on them", min=1)] = 50,
    out: Annotated[Path | None, typer.Option("--csv", help="file, appended to")] = None,
) -> None:
    """Fréchet distance and class accuracy of sets of pictures, by solver and evaluations."""
    torch.set_num_threads(1)
    table, many = Rows(out), list(map(int, counts.split(",")))
    said = judge(name, data, work, split, pictures)
    plan = [
        (seed, count, words, steps)
        for seed in range(1, seeds + 1)
        for count in many
        for words in (MAIN if solvers == "main" else solvers.split(";"))
        if (steps := steps_for(words, count))
    ]
    keys = [
        {"prior": name, "pictures": str(pictures), "seed": str(seed), "solver": words, "evaluations": str(count)}
        for seed, count, words, _ in plan
    ]
    todo = [(key, *each) for key, each in zip(keys, plan, strict=True) if not table.has(**key)]
    left, done, begun = sum(each[2] for each in todo), 0, time.monotonic()
    for key, seed, count, words, steps in todo:
        start = time.process_time()
        made = drawn(name, words, steps, pictures, seed, batch)
        seconds = f"{time.process_time() - start:.1f}"
        table.add(key | said(made) | {"seconds": seconds})
        left, done = left - count, done + count
        print(f"{(time.monotonic() - begun) / done * left / 60:.1f} min left", flush=True)


def show_sets(
    files: Annotated[list[Path], typer.Argument(help="CSV files of `sets`")],
    plot: Annotated[Path | None, typer.Option(help="PNG")] = None,
) -> None:
    """The tables: means with 95 % intervals over seeds, and the margin over UniPC-2 on the same noises."""
    found: dict[str, dict[tuple[str, int], list[dict[str, str]]]] = {}
    for file in files:
        for row in kept.read(file):
            found.setdefault(row["prior"], {}).setdefault((row["solver"], int(row["evaluations"])), []).append(row)
    for name, table in found.items():
        found[name] = table = {key: rows for key, rows in table.items() if len(rows) > 1}
        if not table:
            raise typer.BadParameter(f"files: expected two seeds or more of {name}, got one; run `sets` again to go on")
        counts = sorted({n for _, n in table})
        first = next(iter(table.values()))
        print(
            f"\n{name}, {max(map(len, table.values()))} x {first[0]['pictures']} pictures; real ones: {first[0]['reference'] or '-'}\n"
        )
        for what, digits in (("frechet", 3), ("accuracy", 3)):
            if not first[0][what]:
                continue
            print(f"| {name}, {what}: solver | {' | '.join(map(str, counts))} |\n| --- |{' --- |' * len(counts)}")
            for words in dict.fromkeys(w for w, _ in table):
                print(f"| {words} | {' | '.join(_cell(table, words, n, what, digits) for n in counts)} |")
            print()
    if plot:
        _plot(found, plot)


def pictures(
    files: Annotated[list[Path], typer.Argument(help="CSV files of `sets`")],
    out: Annotated[Path, typer.Option(help="JSON file of `table`, added to")] = Path("solvers.json"),
    upto: Annotated[int, typer.Option(help="evaluations")] = 4,
) -> None:
    """What drew the best pictures of each prior at so few evaluations, where all solvers are far from the solution."""
    found, best = json.loads(out.read_text("utf-8")), _best(files)
    for (name, count), (words, distance_) in best.items():
        if count <= upto:
            row = found.setdefault(name, {}).setdefault(str(count), {})
            row["pictures"] = {"solver": words, "grid": "own", "frechet": round(distance_, 4)}
    out.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", "utf-8")
    print(f"wrote {out}")


def _best(files: list[Path]) -> dict[tuple[str, int], tuple[str, float]]:
    """Prior and evaluations -> the solver of the least mean Fréchet distance, and that; of solvers that drew with every seed."""
    table: dict[tuple[str, int], dict[str, list[float]]] = {}
    for file in files:
        for row in kept.read(file):
            cell = table.setdefault((row["prior"], int(row["evaluations"])), {})
            cell.setdefault(row["solver"], []).append(float(row["frechet"]))
    found = {}
    for key, cell in table.items():
        whole = {words: fmean(each) for words, each in cell.items() if len(each) == max(map(len, cell.values()))}
        words = min(whole, key=lambda each: whole[each])
        found[key] = (words, whole[words])
    return found


def _values(table: dict[Any, list[dict[str, str]]], words: str, count: int, what: str) -> dict[str, float]:
    """By seed."""
    return {row["seed"]: float(row[what]) for row in table.get((words, count), [])}


def _cell(table: dict[Any, list[dict[str, str]]], words: str, count: int, what: str, digits: int) -> str:
    here, rival = _values(table, words, count, what), _values(table, RIVAL, count, what)
    if not here:
        return ""
    cell, both = interval(here.values()).shown(digits), here.keys() & rival.keys()
    if words != RIVAL and len(both) > 1:
        margin, half = interval([here[seed] - rival[seed] for seed in both])
        cell += f" ({margin:+.{digits}f} ± {half:.{digits}f})"
    return cell + (f", {len(here)} seeds" if len(here) < max(map(len, table.values())) else "")


def _plot(found: dict[str, dict[tuple[str, int], list[dict[str, str]]]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(4.2 * len(found), 7), squeeze=False)
    for column, (name, table) in enumerate(found.items()):
        for axis, what in zip(axes[:, column], ("frechet", "accuracy"), strict=True):
            for words, colour in zip(MAIN, COLOURS, strict=True):
                counts = sorted(n for w, n in table if w == words and table[w, n][0][what])
                if counts:
                    each = [interval(_values(table, words, n, what).values()) for n in counts]
                    means = [m for m, _ in each]
                    halves = [h if len(table[words, n]) > 2 else 0 for n, (_, h) in zip(counts, each, strict=True)]
                    axis.errorbar(counts, means, halves, marker="o", ms=3, lw=1.4, capsize=2, color=colour, label=words)
            if not axis.lines:
                axis.axis("off")
                continue
            axis.set_xscale("log")
            ticks = sorted({n for _, n in table})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel("evaluations")
            axis.grid(alpha=0.3)
            if what == "frechet":
                axis.set_yscale("log")
                axis.set_title(name)
            if not column:
                axis.set_ylabel({"frechet": "squared Fréchet distance", "accuracy": "share of the right class"}[what])
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(out, dpi=110)
    print(f"wrote {out}")
