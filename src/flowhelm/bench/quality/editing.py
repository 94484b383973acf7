"""How far an edit goes, and how much of the picture it keeps, method by method.

    python -m flowhelm.bench.quality.editing run fashion --data fashion_mnist.npz --work bench --out editing.csv
    python -m flowhelm.bench.quality.editing table editing.csv
    python -m flowhelm.bench.quality.editing sheet fashion --data fashion_mnist.npz --out editing.png
    python -m flowhelm.bench.quality.editing inversion fashion --data fashion_mnist.npz

Held-out pictures of one class are asked to become another (`PAIRS`). Obeyed: the share of results that the project's classifier takes
for the new class. Kept: root mean square distance to the picture, 0 to 2. Each method with several shares of steps left out (--keep):
more is kept, fewer obey. The comparison is at equal distance, by linear interpolation between two settings. The last line of a table is
what a sceptic asks for: a real picture of the new class, the nearest of the training part, which keeps nothing on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import edit, guide, steer
from ...app.files.atomic import put_picture
from ...app.show.sheet import sheet as laid
from ...priors import bundled
from ...rng import Noise
from ...solve import integrate, inversion_rate, inversion_start
from ...step import run as final
from .. import kept
from ..intervals import Mean, interval
from .classifier import classifier, whole

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
PAIRS = {
    "fashion": (("pullover", "coat"), ("sneaker", "ankle boot"), ("shirt", "t-shirt")),
    "aerial": (("field", "forest"), ("grass", "parking"), ("forest", "river or lake")),
}
KEEP = (0.0, 0.15, 0.3, 0.45, 0.6)
STEPS, COUNT = 20, 24
METHODS: Mapping[str, Callable[..., Any]] = {
    "flow_edit": edit.flow_edit,
    "flow_edit, 4 draws": partial(edit.flow_edit, draws=4),
    "flow_opt_edit, 3 ends": partial(edit.flow_opt_edit, iterations=3),
    "flow_opt_edit, 9 ends": edit.flow_opt_edit,
    "inversion": edit.inversion,
    "inversion, guidance 6": edit.inversion,
    "sdedit": edit.sdedit,
    "stsl_edit": edit.stsl_edit,
    "stsl_edit, step 0": partial(edit.stsl_edit, step=0.0),
}
GUIDANCE = {"inversion, guidance 6": 6.0}
"""Of the new condition, where it is not the prior's own; 6 is what a contrast of 2 makes of the prior's 2, were the old condition none."""
PRICE = {
    "flow_edit": (1, 1),
    "flow_edit, 4 draws": (4, 4),
    "flow_opt_edit, 3 ends": (1, 3),
    "flow_opt_edit, 9 ends": (1, 9),
    "inversion": (1, 1),
    "inversion, guidance 6": (1, 1),
    "stsl_edit": (2, 3),
    "stsl_edit, step 0": (2, 1),
}
"""Evaluations of a step of the old and of the new flow; where it is not here, 0 and 1."""
LEVELS = {"fashion": (0.15, 0.25, 0.35), "aerial": (0.2, 0.3, 0.4)}


def pictures(parts: Mapping[str, tuple[Tensor, Tensor]], label: int, count: int, part: str = "test") -> Tensor:
    """The first of a class, `(count, c, h, w)` in [-1, 1], at the size of the prior's."""
    from ...rewards.classifier import scaled

    images, labels = parts[part]
    return scaled(images[labels == label][:count])


def told(name: str, old: str, new: str, rows: int, scale: float | None) -> tuple[Any, Any]:
    """The prior under the new condition, guided, and under the old one."""
    prior = bundled.load(name)
    rule = partial(guide.cfg, scale=scale or prior.scale)
    return prior.told([new] * rows, guidance=rule), prior.told([old] * rows)


@app.command("run")
@torch.no_grad()
def measure(
    name: Annotated[str, typer.Argument(help=", ".join(PAIRS))],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder of the classifier")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    out: Annotated[Path, typer.Option(help="rows")] = Path("editing.csv"),
    count: Annotated[int, typer.Option(min=2, help="pictures of a pair of classes")] = COUNT,
    only: Annotated[list[str] | None, typer.Option(help=f"methods, of {'; '.join(METHODS)}; default: all")] = None,
) -> None:
    """A row for each pair, method and share that is left out."""
    if unknown := set(only or ()) - set(METHODS):
        raise typer.BadParameter(f"expected methods of {'; '.join(METHODS)}, got {'; '.join(sorted(unknown))}")
    parts = whole(name, data, split)
    net = classifier(name, parts, work)
    names = [each.lower() for each in bundled.load(name).about["classes"]]
    columns = ("prior", "old", "new", "method", "keep", "evaluations", "obeyed", "distance", "pictures")
    out.unlink(missing_ok=True)
    for old, new in PAIRS[name]:
        target = names.index(new)
        shown = pictures(parts, names.index(old), count)

        def add(*cells: object, pair: tuple[str, str] = (old, new)) -> None:
            kept.append(out, dict(zip(columns, (name, *pair, *cells, count), strict=True)))

        for method, keep, evaluations, results in _edited(name, old, new, shown, only or METHODS):
            obeyed = float((net(results.clamp(-1, 1)).argmax(1) == target).double().mean())
            far = float((results - shown).square().flatten(1).mean(1).sqrt().mean())
            add(method, keep, evaluations, f"{obeyed:.4f}", f"{far:.4f}")
        real = pictures(parts, target, 10**6, "train")
        near = torch.cdist(shown.flatten(1), real.flatten(1)).min(1).values / shown[0].numel() ** 0.5
        add("nearest real picture", "", 0, "1.0000", f"{float(near.mean()):.4f}")
    print(f"wrote {out}")


def _edited(
    name: str, old: str, new: str, shown: Tensor, methods: Collection[str]
) -> Iterator[tuple[str, float, float, Tensor]]:
    for method, function in METHODS.items():
        for keep in KEEP if method in methods else ():
            target, source = told(name, old, new, len(shown), GUIDANCE.get(method))
            times = target.times(STEPS)[int(keep * STEPS) :]
            steps = function(target, source, target.encode(shown), times, noise=Noise(0, range(len(shown))))
            before, after = PRICE.get(method, (0, 1))
            evaluations = (len(times) - 1) * (before + 2 * after)  # guidance counts twice
            yield method, keep, evaluations, target.decode(final(steps).x)


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="of `run`")]) -> None:
    """The share that obeys at equal distance to the picture: mean over pairs, with a 95 % interval over all pictures."""
    found = kept.read(rows)
    name = found[0]["prior"]
    levels = LEVELS[name]
    print(f"| {name} | evaluations | " + " | ".join(f"obeyed at {level:g}" for level in levels) + " |")
    print("| --- | --- |" + " --- |" * len(levels))
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        if method == "nearest real picture":
            far = sum(float(row["distance"]) for row in mine) / len(mine)
            print(f"| {method}, {far:.2f} away | 0 |" + " - |" * len(levels))
            continue
        cells = []
        for level in levels:
            per = [_at([r for r in mine if (r["old"], r["new"]) == pair], level) for pair in PAIRS[name]]
            known = [each for each in per if not math.isnan(each)]
            if not known:
                cells.append("-")
                continue
            mean, total = sum(known) / len(known), len(known) * int(mine[0]["pictures"])
            cells.append(
                f"{mean:.0%} ± {1.96 * (mean * (1 - mean) / total) ** 0.5:.0%}"
                + (f" ({len(known)} of {len(per)})" if len(known) < len(per) else "")
            )
        print(
            f"| `{method}` | {min(float(r['evaluations']) for r in mine):.0f} to {max(float(r['evaluations']) for r in mine):.0f} | "
            + " | ".join(cells)
            + " |"
        )


def _at(rows: Sequence[Mapping[str, str]], level: float) -> float:
    """What is obeyed at a distance, by interpolation between settings; of one that never goes so far, at its farthest; nan if it is
    always farther."""
    points = sorted((float(row["distance"]), float(row["obeyed"])) for row in rows)
    if points[-1][0] < level:
        return points[-1][1]
    for (near, low), (far, high) in pairwise(points):
        if near <= level <= far:
            return low + (high - low) * (level - near) / max(far - near, 1e-9)
    return math.nan


@app.command("sheet")
@torch.no_grad()
def shown_sheet(
    name: Annotated[str, typer.Argument(help=", ".join(PAIRS))],
    data: Annotated[Path, typer.Option(help="the set's file")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    keep: Annotated[float, typer.Option(min=0, max=0.95)] = 0.3,
    out: Annotated[Path, typer.Option(help="PNG")] = Path("editing.png"),
) -> None:
    """Two pictures of each pair, and what each method makes of them."""
    parts = whole(name, data, split)
    names = [each.lower() for each in bundled.load(name).about["classes"]]
    columns: dict[str, list[Tensor]] = {"picture": [], **{method: [] for method in METHODS}}
    for old, new in PAIRS[name]:
        shown = pictures(parts, names.index(old), 2)
        columns["picture"].append(shown)
        for method, function in METHODS.items():
            target, source = told(name, old, new, 2, GUIDANCE.get(method))
            times = target.times(STEPS)[int(keep * STEPS) :]
            columns[method].append(final(function(target, source, shown, times, noise=Noise(0, range(2)))).x)
    put_picture(out, laid([(method, torch.cat(each)) for method, each in columns.items()]))
    print(f"wrote {out}: {', '.join(f'{old} to {new}' for old, new in PAIRS[name])}")


@app.command()
@torch.no_grad()
def inversion(
    name: Annotated[str, typer.Argument(help=", ".join(PAIRS))],
    data: Annotated[Path, typer.Option(help="the set's file")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    count: Annotated[int, typer.Option(min=2)] = 16,
    most: Annotated[int, typer.Option("--ends", min=1, help="iterations, of 31 at most")] = 31,
) -> None:
    """The error of FlowOpt's inversion by iteration, with rates within the bound that `solve.inversion_rate` finds and beyond it.

    With 9 ends a minute of one core on clothes, two on eight scenes of `aerial`.
    """
    parts = whole(name, data, split)
    names = [each.lower() for each in bundled.load(name).about["classes"]]
    old = PAIRS[name][0][0]
    shown = pictures(parts, names.index(old), count)
    flow = bundled.load(name).told([old] * count)
    times = flow.times(10)
    z = inversion_start(flow, shown, times)
    bound = inversion_rate(flow, times, flow.source(Noise(1, range(count))), safety=1.0)
    ends = [end for end in (1, 2, 3, 5, 9, 16, 31) if end <= most]
    print(f"Rate found: {bound:.3g}. Root mean square error of the end, 10 steps: mean over {count} pictures ± 95 %.\n")
    print("| rate | " + " | ".join(f"end {i}" for i in ends) + " |\n| --- |" + " --- |" * len(ends))
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        errors: dict[int, Mean] = {}

        def distance(image: Tensor) -> Tensor:
            return -(image - shown).square().flatten(1).sum(1) / 2

        for step in steer.flow_opt(flow, distance, z, times, rate=factor * bound, iterations=max(ends)):
            errors[step.index] = _off(step.clean, shown)
            if not math.isfinite(errors[step.index].value):
                break
        cells = [errors[i].shown(3) if i in errors else "diverged" for i in ends]
        print(f"| {factor:g} x | {' | '.join(cells)} |", flush=True)
    print(f"\nPlain inversion, nothing moved: {_off(final(integrate(flow, z, times)).x, shown).shown(3)}")


def _off(image: Tensor, shown: Tensor) -> Mean:
    """Root mean square difference of each picture, over the pictures."""
    return interval((image - shown).double().square().flatten(1).mean(1).sqrt().tolist())


if __name__ == "__main__":
    app()
