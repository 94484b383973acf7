"""Does a class-conditional prior draw what it is told, as varied as the real pictures are, and not by heart?

    python -m flowhelm.bench.quality.generation fashion --data fashion_mnist.npz --work bench --csv generation.csv --sheet sheet.png

A row of the table is one way to sample: guidance, scale, steps, solver. Of its samples, clamped and rounded to 8 bits as they
would be saved, the classifier of `bench.quality.classifier` says
- accuracy: how many have the label they were told (and of which class the fewest);
- Fréchet distance (`metrics.frechet`), in its 64 features, to the test part and to the training part. It depends on the number
  of samples: beside it stands the same distance from as many training pictures (all, if there are fewer) to the test part;
- nearest neighbours: the root mean square distance to the nearest training picture (mirrored or not), in pixels and in
  features, beside that of test pictures; the share of samples nearer than all but 1 % of test pictures (1 % is expected of
  fresh pictures, more of smooth ones, in pixels); and the share of memorised ones, three times nearer to their nearest training
  picture than to the second (Gu et al. 2023, arXiv:2310.02664, section 2).

A guidance without numbers ("cfg", "raag") is searched for at each number of steps: over `GRID`, with fewer samples of another
seed, for the lowest distance to the training part among those with the accuracy asked for. With --seeds, every row is drawn from
as many seeds, and a second table has the means with 95 % intervals, and the differences from the same noise between RAAG and
constant guidance. Rows are appended to the CSV file as they are finished; run the command again to go on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from ... import guide
from ...flow import Flow, Guidance
from ...metrics import frechet_features
from ...priors.bundled import Prior, load
from ...rewards.classifier import Classifier, scaled
from ...rng import Noise
from ...solve import integrate
from ...step import run
from ...transition import Transition, euler, heun, midpoint
from .. import kept
from ..intervals import interval
from .classifier import classifier, whole

SOLVERS: dict[str, tuple[Transition, int]] = {"euler": (euler, 1), "midpoint": (midpoint, 2), "heun": (heun, 2)}
NAMES: dict[str, tuple[str, ...]] = {"none": (), "cfg": ("scale",), "cfg_zero": ("scale",), "raag": ("scale", "decay")}
GRID: dict[str, list[tuple[float, ...]]] = {
    "cfg": [(s,) for s in (1.25, 1.5, 2.0, 3.0)],
    "cfg_zero": [(s,) for s in (1.25, 1.5, 2.0, 3.0)],
    "raag": list(product((2.0, 3.0, 5.0), (4.0, 12.0))),
}


class Way(NamedTuple):
    """One way to sample; `numbers` are those of `NAMES[guidance]`."""

    guidance: str
    numbers: tuple[float, ...]
    steps: int
    solver: str

    def bound(self) -> Guidance | None:
        if self.guidance == "none":
            return None
        options = dict(zip(NAMES[self.guidance], self.numbers, strict=True))
        of: dict[str, Callable[..., Tensor]] = {"cfg": guide.cfg, "cfg_zero": guide.cfg_zero, "raag": guide.raag}
        return partial(of[self.guidance], **options)

    @property
    def rows(self) -> int:
        """Rows of the network per sample, about: two per evaluation with guidance."""
        return self.steps * SOLVERS[self.solver][1] * (1 if self.guidance == "none" else 2)


def read(text: str) -> tuple[str, tuple[float, ...] | None]:
    """ "cfg:1.5" -> ("cfg", (1.5,)); "raag:6:8"; "none"; "cfg" alone -> ("cfg", None), to be searched for."""
    name, *numbers = text.split(":")
    if name not in NAMES or (numbers and len(numbers) != len(NAMES[name])):
        forms = ", ".join(":".join([n, *map(str.upper, of)]) for n, of in NAMES.items())
        raise ValueError(f"guidance: expected one of {forms} (or the name alone, to search), got '{text}'")
    return name, tuple(map(float, numbers)) if numbers or name == "none" else None


def drawn(prior: Prior, way: Way, rows: Iterable[int], seed: int) -> tuple[Tensor, int]:
    """Samples of these numbers as uint8 `(b, c, h, w)`, and how many evaluations they took, counted.

    Number i is told class i modulo the classes, whatever the batch.
    """
    rows = list(rows)
    classes = len(prior.about["classes"])
    flow = guide.counted(prior.told([i % classes for i in rows], guidance=way.bound()))
    return pictures_of(flow, rows, way.steps, seed, SOLVERS[way.solver][0]), flow.count.calls


def pictures_of(flow: Flow, rows: list[int], steps: int, seed: int, transition: Transition = euler) -> Tensor:
    """Samples of these numbers as uint8 `(b, c, h, w)`, as they would be saved."""
    noise = Noise(seed, rows)
    last = run(integrate(flow, flow.source(noise), flow.times(steps), transition=transition, noise=noise))
    return ((flow.decode(last.x).clamp(-1, 1) + 1) * 127.5).round().byte()


def nearest(
    rows: Tensor, store: Tensor, mirrored: Callable[[Tensor], Tensor] | None = None, chunk: int = 4000
) -> tuple[Tensor, Tensor]:
    """Root mean square distance to the nearest two of the store, and which is the nearest: `(n, 2)`, `(n,)`.

    Args:
        rows: `(n, ...)`; store: `(m, ...)`, m >= 2. uint8 pictures are brought to [-1, 1] here.
        mirrored: the rows' mirror image: the nearer of each row and its mirror image counts.
    """
    prepared = lambda x: (scaled(x) if x.dtype == torch.uint8 else x).flatten(1)  # noqa: E731
    sides = [prepared(rows)] + ([prepared(mirrored(rows))] if mirrored else [])
    best = torch.full((len(rows), 2), torch.inf)
    which = torch.zeros(len(rows), 2, dtype=torch.int64)
    for start in range(0, len(store), chunk):
        part = prepared(store[start : start + chunk])
        square = part.square().sum(1) - 2 * torch.stack([side @ part.T for side in sides]).amax(0)
        value, index = torch.cat([best, square], 1).topk(2, largest=False)
        which = torch.cat([which, torch.arange(start, start + len(part)).expand(len(rows), -1)], 1).gather(1, index)
        best = value
    size = sides[0].shape[1]
    return ((best + sides[0].square().sum(1, keepdim=True)).clamp(min=0) / size).sqrt(), which[:, 0]


class Judge:
    """What real pictures say of samples: the classifier, the features of both parts, the distances of test pictures.

    Args:
        looked: for how many samples, and test pictures, neighbours are searched. seed: of which real pictures are taken.
    """

    def __init__(self, net: Classifier, parts: dict[str, tuple[Tensor, Tensor]], looked: int, seed: int):
        self.net, self.parts, self.looked = net, parts, looked
        self.features = {part: net.judge(pictures)[0] for part, (pictures, _) in parts.items()}
        self.order = {
            part: torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
            for part, (pictures, _) in parts.items()
        }
        some = self.order["test"][:looked]
        self.fresh = self.distances(parts["test"][0][some], self.features["test"][some])

    def distances(self, pictures: Tensor, features: Tensor) -> dict[str, Tensor]:
        """To the nearest two training pictures, `(n, 2)` each."""
        return {
            "pixel": nearest(pictures, self.parts["train"][0], lambda x: x.flip(-1))[0],
            "feature": nearest(features, self.features["train"])[0],
        }

    def reference(self, count: int) -> float:
        """The Fréchet distance of `count` training pictures to the test part."""
        return float(frechet_features(self.features["train"][self.order["train"][:count]], self.features["test"]))

    def __call__(self, pictures: Tensor, told: Tensor, names: list[str], near: bool = True) -> dict[str, str]:
        """The figures of one row; pictures uint8 `(n, c, h, w)`, told `(n,)`."""
        features, seen = self.net.judge(pictures)
        right = (seen == told).double()
        each = {name: float(right[told == i].mean()) for i, name in enumerate(names) if (told == i).any()}
        worst = min(each, key=each.__getitem__)
        out = {
            "accuracy": f"{float(right.mean()):.4f}",
            "worst": f"{worst} {each[worst]:.3f}",
            "to_test": f"{float(frechet_features(features, self.features['test'])):.4f}",
            "to_train": f"{float(frechet_features(features, self.features['train'])):.4f}",
            "reference": f"{self.reference(len(pictures)):.4f}",
        }
        of = self.distances(pictures[: self.looked], features[: self.looked]) if near else {}
        for space in ("pixel", "feature"):
            fresh = self.fresh[space][:, 0]
            mine = of[space] if near else None
            out[f"{space}_near"] = "" if mine is None else f"{float(mine[:, 0].median()):.4f}"
            out[f"{space}_near_test"] = f"{float(fresh.median()):.4f}"
            nearer = None if mine is None else (mine[:, 0] < fresh.quantile(0.01)).double().mean()
            out[f"{space}_nearer"] = "" if nearer is None else f"{float(nearer):.4f}"
        memorised = (of["pixel"][:, 0] < of["pixel"][:, 1] / 3).double().mean() if near else None
        out["memorised"] = "" if memorised is None else f"{float(memorised):.4f}"
        return out


class Table:
    """The rows of one prior in the CSV file, and how long the rest will take."""

    def __init__(self, prior: Prior, name: str, judge: Judge, out: Path | None, batch: int):
        self.prior, self.judge, self.out, self.batch = prior, judge, out, batch
        self.who = {"set": name, "prior": prior.name, "trained": str(prior.about.get("steps", ""))}
        stored = kept.stored(out)
        self.rows = [r for r in stored if all(r[k] == v for k, v in self.who.items())]
        self.spent, self.made = 0.0, 0  # seconds, rows of the network

    def row(self, part: str, way: Way, samples: int, seed: int, left: int) -> dict[str, str]:
        """The row from the file, or a new one; `left` rows of the network are to come after it."""
        numbers = dict(zip(NAMES[way.guidance], (f"{n:g}" for n in way.numbers), strict=True))
        key = self.who | {
            "part": part, "samples": str(samples), "seed": str(seed), "guidance": way.guidance,
            "scale": numbers.get("scale", ""), "decay": numbers.get("decay", ""), "steps": str(way.steps),
            "solver": way.solver,
        }  # fmt: skip
        for old in self.rows:
            if all(old[k] == v for k, v in key.items()):
                return old
        pictures, calls = self._draw(way, samples, seed, left)
        told = torch.arange(samples) % len(self.prior.about["classes"])
        cost = {"evaluations": str(calls), "network_rows": str(calls * (1 if way.guidance == "none" else 2))}
        row = key | cost | self.judge(pictures, told, list(self.prior.about["classes"]), near=part == "table")
        self.rows.append(row)
        kept.append(self.out, row)
        print(
            f"{time.strftime('%H:%M:%S')} {part}: {label(row)}, {way.steps} steps: accuracy {float(row['accuracy']):.2%}, "
            f"Fréchet {float(row['to_test']):.3f} (training pictures {float(row['reference']):.3f})",
            flush=True,
        )
        return row

    def _draw(self, way: Way, samples: int, seed: int, left: int) -> tuple[Tensor, int]:
        out, calls = [], 0
        for start in range(0, samples, self.batch):
            began = time.monotonic()
            pictures, calls = drawn(self.prior, way, range(start, min(start + self.batch, samples)), seed)
            out.append(pictures)
            self.spent, self.made = self.spent + time.monotonic() - began, self.made + way.rows * len(out[-1])
            rest = (samples - start - len(out[-1])) * way.rows + left
            minutes = self.spent / self.made * rest / 60
            print(
                f"\r{start + len(out[-1])} of {samples} samples, {minutes:.1f} min left in all  ",
                end="",
                file=sys.stderr,
            )
        print("\r", end="", file=sys.stderr)
        return torch.cat(out), calls


def label(row: dict[str, str]) -> str:
    """ "raag scale 6 decay 8"."""
    return " ".join([row["guidance"], *(f"{k} {row[k]}" for k in ("scale", "decay") if row[k])])


def chosen(rows: Iterable[dict[str, str]], target: float) -> dict[str, str]:
    """The lowest distance to the training part among rows of at least this accuracy; if none has it, the most accurate row."""
    rows = list(rows)
    good = [r for r in rows if float(r["accuracy"]) >= target]
    return min(good, key=lambda r: float(r["to_train"])) if good else max(rows, key=lambda r: float(r["accuracy"]))


def evaluate(
    table: Table,
    guidances: list[str],
    steps: list[int],
    solver: str,
    samples: int,
    search: int,
    seed: int,
    target: float,
    seeds: int = 1,
) -> Iterator[dict[str, str]]:
    """The rows of the table, one for each of `seeds` seeds from `seed` on; what is to be searched for is searched for first."""
    wanted = [(steps_, *read(text)) for steps_ in steps for text in guidances]
    plan = [
        (name, steps_, [Way(name, n, steps_, solver) for n in ([numbers] if numbers is not None else GRID[name])])
        for steps_, name, numbers in wanted
    ]
    todo = [(way.rows * search, way) for _, _, ways in plan for way in ways if len(ways) > 1]
    todo += [(ways[0].rows * samples * seeds, ways[0]) for _, _, ways in plan]
    left = sum(cost for cost, _ in todo)
    for _, _, ways in plan:
        if len(ways) > 1:
            found = []
            for way in ways:
                left -= way.rows * search
                found.append(table.row("search", way, search, seed + seeds, left))
            best = chosen(found, target)
            ways[:] = [way for way, row in zip(ways, found, strict=True) if row is best]
    for (_, _, (way,)), each in product(plan, range(seed, seed + seeds)):
        left -= way.rows * samples
        yield table.row("table", way, samples, each, left)


def markdown(rows: list[dict[str, str]]) -> str:
    """The table, and what the guidance saves in steps."""
    lines = [
        "| guidance | steps | network rows | samples | accuracy (worst class) | Fréchet to test (train) | training pictures to test "
        "| nearest, pixels: samples (test) | nearest, features | nearer than 99 % of test, pixels / features | memorised |",
        "| --- |" + " --- |" * 10,
    ]
    for r in rows:
        lines.append(
            f"| {label(r)}{'' if r['solver'] == 'euler' else ', ' + r['solver']} | {r['steps']} | {r['network_rows']} | {r['samples']} "
            f"| {float(r['accuracy']):.2%} ({r['worst']}) | {float(r['to_test']):.3f} ({float(r['to_train']):.3f}) "
            f"| {float(r['reference']):.3f} | {r['pixel_near']} ({r['pixel_near_test']}) | {r['feature_near']} "
            f"({r['feature_near_test']}) | {float(r['pixel_nearer']):.1%} / {float(r['feature_nearer']):.1%} "
            f"| {float(r['memorised']):.2%} |"
        )
    cfg = sorted((r for r in rows if r["guidance"] == "cfg"), key=lambda r: int(r["steps"]))
    for r in (r for r in rows if r["guidance"] == "raag"):
        reach = [c for c in cfg if float(c["to_test"]) <= float(r["to_test"]) and c["solver"] == r["solver"]]
        said = (
            f"constant guidance reaches that distance with {reach[0]['steps']} steps "
            f"({int(reach[0]['steps']) / int(r['steps']):.1f} times as many)"
            if reach
            else "constant guidance reaches that distance with none of these numbers of steps"
        )
        if cfg:
            lines.append(f"\n{label(r)}, {r['steps']} steps: Fréchet {float(r['to_test']):.3f}; {said}")
    return "\n".join(lines)


def over_seeds(rows: list[dict[str, str]]) -> str:
    """Means over seeds with 95 % intervals, and what RAAG's distance is above that of constant guidance from the same noise."""
    groups: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((label(row), int(row["steps"])), []).append(row)
    constant = [key for key in groups if key[0].startswith("cfg ")]
    lines = ["| guidance | steps | accuracy | Fréchet to test | above constant guidance |", "| --- |" + " --- |" * 4]
    for (name, steps), mine in groups.items():
        accuracy = interval(100 * float(row["accuracy"]) for row in mine).shown(1)
        far = [float(row["to_test"]) for row in mine]
        beside = []
        for other in constant if name.startswith("raag ") else ():
            if other[1] == steps:
                theirs = [float(row["to_test"]) for row in groups[other]]
                beside.append(f"{interval(a - b for a, b in zip(far, theirs, strict=True)).shown(3)} ({other[0]})")
        lines.append(f"| {name} | {steps} | {accuracy} % | {interval(far).shown(3)} | {'; '.join(beside) or '-'} |")
    return "\n".join(lines)


def draw_sheet(path: Path, prior: Prior, way: Way, judge: Judge, seed: int, groups: int = 3, zoom: int = 2) -> None:
    """PNG: the table's first samples, unselected, a class per column; under each its nearest training picture in pixels and in features."""
    from PIL import Image, ImageDraw

    names = list(prior.about["classes"])
    columns = len(names)
    samples, _ = drawn(prior, way, range(groups * columns), seed)
    train = judge.parts["train"][0]
    near = {
        "sample": samples,
        "nearest (pixels)": train[nearest(samples, train, lambda x: x.flip(-1))[1]],
        "nearest (features)": train[nearest(judge.net.judge(samples)[0], judge.features["train"])[1]],
    }
    side, margin, top, gap = samples.shape[-1] * zoom, 110, 16, 6
    canvas = Image.new("RGB", (margin + columns * side, top + groups * (3 * side + gap)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, name in enumerate(names):
        pen.text((margin + column * side + 2, 2), name[: side // 6], fill="black")
    for group, (line, (what, pictures)) in product(range(groups), enumerate(near.items())):
        y = top + group * (3 * side + gap) + line * side
        pen.text((4, y + side // 2 - 6), what, fill="black")
        for column in range(columns):
            pixels = pictures[group * columns + column].expand(3, -1, -1).permute(1, 2, 0).numpy()
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (margin + column * side, y))
    part = path.with_name(path.name + ".part")
    canvas.quantize(128).save(part, "PNG", optimize=True)
    part.replace(path)
    print(f"sheet: {path}")


def main(
    name: Annotated[str, typer.Argument(help="fashion, aerial or animals")],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder for the classifier's weights")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    prior: Annotated[str | None, typer.Option(help="bundled prior or weights file; the set's own if not given")] = None,
    samples: Annotated[int, typer.Option(help="per row of the table; distances depend on it")] = 2000,
    steps: Annotated[str, typer.Option(help="numbers of steps, with commas")] = "5,10,25",
    guidance: Annotated[
        str, typer.Option(help="none, cfg:SCALE, cfg_zero:SCALE, raag:SCALE:DECAY; a bare name is searched for")
    ] = "none,cfg,raag",
    solver: Annotated[str, typer.Option(help=", ".join(SOLVERS))] = "euler",
    search: Annotated[int, typer.Option(help="samples per candidate of the search")] = 500,
    target: Annotated[
        float | None, typer.Option(help="accuracy asked for in the search; that of real test pictures if not given")
    ] = None,
    looked: Annotated[int, typer.Option(help="samples whose neighbours are searched for")] = 1000,
    batch: Annotated[int, typer.Option(help="samples at a time; of no effect on them")] = 100,
    seed: Annotated[int, typer.Option()] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="draws of each row, from --seed on")] = 1,
    out: Annotated[Path | None, typer.Option("--csv", help="file, appended to")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="PNG of samples and their neighbours, by the table's best row")
    ] = None,
) -> None:
    """Sample a class-conditional prior in several ways; print what a classifier trained on real pictures says of each."""
    if solver not in SOLVERS:
        raise typer.BadParameter(f"solver: expected one of {', '.join(SOLVERS)}, got '{solver}'")
    flow = load(prior or name)
    parts = whole(name, data, split)
    net = classifier(name, parts, work)
    print(f"classifier: right on {net.accuracy:.2%} of {len(parts['test'][1])} test pictures", flush=True)
    target = net.accuracy if target is None else target
    judge = Judge(net, parts, looked, seed)
    table = Table(flow, name, judge, out, batch)
    counts = [int(n) for n in steps.split(",")]
    rows = list(evaluate(table, guidance.split(","), counts, solver, samples, search, seed, target, seeds))
    print(
        f"\n{name}, prior {flow.name}, {flow.about.get('steps', '?')} steps of training, {solver}, accuracy asked for {target:.1%}\n"
    )
    print(markdown([row for row in rows if row["seed"] == str(seed)]))
    if seeds > 1:
        print(f"\n{seeds} draws of each:\n\n{over_seeds(rows)}")
    if sheet:
        best = chosen([row for row in rows if row["seed"] == str(seed)], target)
        numbers = tuple(float(best[k]) for k in NAMES[best["guidance"]])
        draw_sheet(sheet, flow, Way(best["guidance"], numbers, int(best["steps"]), solver), judge, seed)


if __name__ == "__main__":
    typer.run(main)
