"""What bottleneck sampling saves and what it costs, on a prior of any size: FLOPs, seconds, distances, beside fewer plain steps.

    python -m flowhelm.bench.quality.bottleneck --size 192 --steps 20 --data test_photos.zip --csv bottleneck.csv --sheet bottleneck.png

Each way is followed by its rival: plain sampling with as many steps as cost no fewer FLOPs. Columns: evaluations at the large and at the
small size; FLOPs (counted by torch) and seconds of the plain run over those of the way, the seconds in pairs, one after the other, median
and quartiles; root mean square distance from the plain run of the same noise; squared Fréchet distance of 8 x 8 patches, of the pictures as
they are (detail) and four times smaller (layout), from plain runs of other noises or, with --data, from centre crops of photographs;
with 95 % intervals over seeds. From plain runs, the plain row has the floor: two sets of plain runs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor
from torch.nn.functional import avg_pool2d, unfold
from torch.utils.flop_counter import FlopCounterMode

from ...app.files.dataset import pictures as crops
from ...app.show.sheet import sheet as drawn_sheet
from ...flow import NetFlow
from ...metrics.frechet import frechet_features
from ...priors.bundled import load
from ...rng import Noise
from ...sample import bottleneck
from ...solve import integrate
from ...step import Step, run
from .. import kept
from ..intervals import interval

WAYS = (
    "down=0.15,up=0.55,back=0.15,smaller=renoise,larger=renoise",
    "down=0.05,up=0.9,back=0.1,smaller=renoise,larger=renoise",
    "down=0.05,up=0.9,smaller=pool,larger=repeat",
)
PATCH, LAYOUT = 8, 4


class Way(NamedTuple):
    """A name, and the steps from a source and its streams."""

    name: str
    steps: Callable[[Tensor, Noise], Iterator[Step]]


def way(flow: NetFlow, count: int, text: str) -> Way:
    """`down=0.05,up=0.9`: bottleneck sampling with these options; `plain 12`: without."""
    if text.startswith("plain"):
        fewer = int(text.split()[1])
        return Way(text, lambda x, noise: integrate(flow, x, flow.times(fewer)))
    given: dict[str, Any] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        given[name] = value if value.isalpha() else float(value)
    if "factor" in given:
        given["factor"] = int(given["factor"])
    return Way(text, lambda x, noise: bottleneck(flow, x, flow.times(count), noise=noise, **given))


def flops(flow: NetFlow, one: Way) -> tuple[int, int, int]:
    """FLOPs of one picture, and its evaluations at the large and at the small size, those of a renoise included."""
    noise = Noise(0, 1)
    seen: list[int] = []
    handle = flow.net.register_forward_pre_hook(lambda net, given: seen.append(given[0].shape[-1]))
    try:
        with FlopCounterMode(display=False) as count:
            run(one.steps(flow.source(noise), noise))
    finally:
        handle.remove()
    large = sum(side == flow.shape[-1] for side in seen)
    return count.get_total_flops(), large, len(seen) - large


def patches(pictures: Tensor, smaller: int = 1) -> Tensor:
    """All 8 x 8 patches at every fourth place, without the mean colour of their picture, which few pictures do not tell: `(n, c 64)`."""
    x = pictures - pictures.mean((2, 3), keepdim=True)
    x = avg_pool2d(x, smaller) if smaller > 1 else x
    return unfold(x, PATCH, stride=PATCH // 2).transpose(1, 2).flatten(0, 1)


def distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Squared Fréchet distances of patches: detail, layout."""
    return tuple(float(frechet_features(patches(a, k), patches(b, k))) for k in (1, LAYOUT))  # type: ignore[return-value]


def measure(
    flow: NetFlow,
    texts: list[str],
    count: int,
    pictures: int,
    seeds: int,
    say: Callable[[str, float], None],
    real: Tensor | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Rows of the table, and the pictures of the first seed by way."""
    plain = way(flow, count, f"plain {count}")
    whole = flops(flow, plain)[0]
    ways, cost = [plain], {plain.name: flops(flow, plain)}
    for text in texts:
        one = way(flow, count, text)
        cost[text] = flops(flow, one)
        rival = way(flow, count, f"plain {math.ceil(cost[text][0] / whole * count)}")
        cost[rival.name] = flops(flow, rival)
        ways += [each for each in (one, rival) if each.name not in {w.name for w in ways}]
    made: dict[str, list[Tensor]] = {each.name: [] for each in ways}
    ratio: dict[str, list[float]] = {each.name: [] for each in ways}
    work = seeds * sum(pictures * (cost[w.name][0] + whole) for w in ways[1:])
    done, begun = 0.0, time.monotonic()
    for seed in range(seeds):
        for each in ways[1:]:
            seconds = []
            for one in (plain, each):
                noise = Noise(seed, pictures)
                x = flow.source(noise)
                start = time.perf_counter()
                final = run(one.steps(x, noise)).x
                seconds.append(time.perf_counter() - start)
                if len(made[one.name]) == seed:
                    made[one.name].append(final)
            ratio[each.name].append(seconds[0] / seconds[1])
            done += pictures * (cost[each.name][0] + whole)
            say(each.name, (time.monotonic() - begun) * (work / done - 1))
    rows = []
    for each in ways:
        others = [
            real if real is not None else torch.cat([*made[plain.name][:k], *made[plain.name][k + 1 :]])
            for k in range(seeds)
        ]
        detail, layout = zip(*map(distance, made[each.name], others), strict=True)
        rms = torch.cat(
            [(a - b).square().flatten(1).mean(1).sqrt() for a, b in zip(made[each.name], made[plain.name], strict=True)]
        )
        total, large, small = cost[each.name]
        quick = ratio[each.name] or [1.0]
        low, middle, high = (
            (min(quick), statistics.median(quick), max(quick)) if len(quick) < 4 else statistics.quantiles(quick, n=4)
        )
        rows.append({
            "way": each.name, "large": large, "small": small, "flops": f"{whole / total:.2f}", "seconds": f"{middle:.2f}",
            "from": f"{low:.2f}", "to": f"{high:.2f}", "distance": interval(rms.tolist()).shown(3), "detail": interval(detail).shown(3),
            "layout": interval(layout).shown(3),
        })  # fmt: skip
    return rows, {name: tensors[0] for name, tensors in made.items()}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| way | evaluations large + small | FLOPs | seconds | distance | Fréchet, detail | Fréchet, layout |",
        "| --- |" + " --- |" * 6,
    ]
    for r in rows:
        lines.append(
            f"| {r['way']} | {r['large']} + {r['small']} | {r['flops']} | {r['seconds']} ({r['from']} to {r['to']}) | {r['distance']} "
            f"| {r['detail']} | {r['layout']} |"
        )
    return "\n".join(lines)


@torch.no_grad()
def main(
    prior: Annotated[str, typer.Option(help="bundled prior or weights file that takes any size")] = "photos",
    size: Annotated[int, typer.Option(help="side of the pictures")] = 192,
    steps: Annotated[int, typer.Option(help="of the plain run")] = 20,
    ways: Annotated[
        list[str] | None, typer.Option("--way", help="options of bottleneck sampling: down=0.05,up=0.9")
    ] = None,
    pictures: Annotated[int, typer.Option(help="of each seed")] = 6,
    seeds: Annotated[int, typer.Option(help="of the noise, at least 2")] = 3,
    threads: Annotated[int, typer.Option(help="of the processor")] = 1,
    data: Annotated[Path | None, typer.Option(help="photographs to compare with: a zip archive or a folder")] = None,
    images: Annotated[int, typer.Option(help="of them")] = 32,
    out: Annotated[Path | None, typer.Option("--csv", help="file for the rows")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG of the first seed's pictures, a way per row")] = None,
) -> None:
    """Compare bottleneck sampling with plain sampling; see the module."""
    torch.set_num_threads(threads)
    flow = load(prior).sized(size, size)

    def say(name: str, left: float) -> None:
        print(f"{name}, {left:.0f} s left", flush=True)

    real = None if data is None else crops(data, channels=3, size=size, folder="", images=images, spread=True).clean
    rows, shown = measure(flow, ways or list(WAYS), steps, pictures, seeds, say, real)
    print(f"\n{flow.name} at {size} x {size}, {steps} steps, {seeds} x {pictures} pictures\n\n{table(rows)}")
    if out:
        kept.write(out, rows)
    if sheet:
        drawn_sheet([(name, made) for name, made in shown.items()]).save(sheet)


if __name__ == "__main__":
    typer.run(main)
