"""VBLE with a compressor as prior: PSNR beside `hqs`, coverage of its intervals, and what it costs.

    python -m flowhelm.bench.quality.compressive rates --data test_photos.zip
    python -m flowhelm.bench.quality.compressive run --data test_photos.zip --csv vble.csv
    python -m flowhelm.bench.quality.compressive table vble.csv

Centre crops, all in one batch. Nothing is tuned: the weight of the prior is Bayes' rule, 1, and `hqs` has the steps of docs/defaults.md. An
interval of a pixel goes from the 5 % to the 95 % quantile of pictures drawn; the share of true pixels in it should be what so many draws
promise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from ... import operators, restore, start
from ...app.files.dataset import pictures
from ...app.restore.presets import TABLE
from ...codec import CodecPrior, Latents, bits, unpacked
from ...measure import Measurement, simulate
from ...metrics import psnr
from ...priors.bundled import load
from ...rng import Noise
from ...step import run as end_of
from .. import kept
from ..intervals import interval

app = typer.Typer(add_completion=False, no_args_is_help=True)
DRAWS = 39
"""Pictures for the intervals: 5 % and 95 % are then their second and their last but one."""
COLUMNS = (
    "task",
    "method",
    "psnr",
    "half",
    "coverage",
    "promised",
    "width",
    "bits",
    "seconds",
    "steps",
    "pictures",
    "size",
)


class Task(NamedTuple):
    """An operator for pictures of a shape, and the noise."""

    operator: str
    make: Callable[[tuple[int, int, int]], Any]
    std: float


TASKS = (
    Task("denoise", operators.denoise, 0.2),
    Task("deblur", partial(operators.deblur, sigma=1.6, border="circular"), 0.03),
    Task("random_mask", partial(operators.random_mask, missing=0.5), 0.03),
    Task("superres", partial(operators.superres, factor=2), 0.03),
)


@app.callback()
def _commands() -> None:
    """VBLE on photographs."""


@app.command()
@torch.no_grad()
def rates(
    data: Annotated[Path, typer.Option(help="zip archive with CBSD68/")],
    folder: Annotated[str, typer.Option(help="folder of the archive")] = "CBSD68",
    images: Annotated[int, typer.Option(help="pictures, the first ones by name")] = 68,
    size: Annotated[int, typer.Option(help="side of the centre crops")] = 128,
    prior: Annotated[str, typer.Option(help="the compressor")] = "codec",
) -> None:
    """Print what the compressor itself loses, and the length of its files."""
    opened: Any = load(prior)
    codec = opened.codec
    clean = pictures(data, channels=3, size=size, folder=f"{folder}/", images=images).clean
    scores = psnr(codec.decode(codec.encode(clean).round()), clean)
    length = bits(codec, clean) / size**2
    print(f"{prior}: {interval(scores.tolist()).shown(2)} dB at "
          f"{float(length.mean()):.2f} bits per pixel, {len(clean)} crops of {size} x {size}")  # fmt: skip


@app.command()
@torch.no_grad()
def run(
    data: Annotated[Path, typer.Option(help="zip archive with CBSD68/")],
    out: Annotated[Path, typer.Option("--csv", help="file of one row for each task and method")] = Path("vble.csv"),
    folder: Annotated[str, typer.Option(help="folder of the archive")] = "CBSD68",
    images: Annotated[int, typer.Option(help="pictures, the first ones by name")] = 20,
    size: Annotated[int, typer.Option(help="side of the centre crops")] = 64,
    steps: Annotated[int, typer.Option(help="of VBLE")] = 300,
    prior: Annotated[str, typer.Option(help="the compressor")] = "codec",
    seed: Annotated[int, typer.Option(help="of noise and draws")] = 0,
    task: Annotated[list[str] | None, typer.Option(help="only these tasks; all if not given")] = None,
    point: Annotated[bool, typer.Option(help="also the single most probable latents")] = True,
) -> None:
    """Restore the crops and append the figures."""
    clean = pictures(data, channels=3, size=size, folder=f"{folder}/", images=images).clean
    compressor: Any = load(prior)
    codec, photos = compressor.sized(size, size), load("photos").sized(size, size)
    rows: list[dict[str, Any]] = []
    for one in (each for each in TASKS if not task or each.operator in task):
        noise = Noise(seed, len(clean))
        y = simulate(one.make((3, size, size)), clean, one.std, noise.named("measurement"))

        def tell(
            method: str, x: Tensor, began: float, steps: int, task: Task = one, more: Mapping[str, str] = {}
        ) -> None:
            scores = psnr(x, clean)
            row = {
                "task": task.operator, "method": method, "psnr": f"{float(scores.mean()):.3f}",
                "half": f"{interval(scores.tolist()).half:.3f}", "seconds": f"{(time.monotonic() - began) / len(x):.2f}",
                "steps": steps, "pictures": len(x), "size": size, **more,
            }  # fmt: skip
            rows.append(row)
            print({name: row[name] for name in COLUMNS if name in row}, flush=True)

        tell("start", start.guess(y), time.monotonic(), 0)
        usual = TABLE[one.operator][2]
        began = time.monotonic()
        x = end_of(restore.hqs(photos, y, *start.begin(restore.hqs, photos, y, usual))).x
        tell("hqs, photos", x, began, usual)
        began = time.monotonic()
        end = end_of(restore.vble(codec, y, *start.begin(restore.vble, codec, y, steps), noise=noise))
        more = _intervals(codec, y, end, clean, noise) | {"bits": f"{float(end.info['bits'].mean()) / size**2:.2f}"}
        tell("VBLE, mean", end.x, began, steps, more=more)
        if point:
            began = time.monotonic()
            x = end_of(restore.vble(codec, y, *start.begin(restore.vble, codec, y, steps), law="point", noise=noise)).x
            tell("VBLE, point", x, began, steps)
    kept.append(out, *rows, columns=COLUMNS)


def _intervals(codec: CodecPrior, y: Measurement, end: Any, clean: Tensor, noise: Noise) -> dict[str, str]:
    """Share of true pixels within the intervals of pictures that are drawn from the boxes, and their mean width."""
    like: Latents = codec.analyse(end.x)
    law = end.info["law"]
    draws = []
    for _ in range(DRAWS):
        u = torch.special.ndtr(noise(law[:, 0])) - 0.5
        draws.append(codec.picture(unpacked(law[:, 0] + law[:, 1].exp() * u, like).latent))
    ordered = torch.stack(draws).sort(0).values
    low, high = ordered[1], ordered[-2]
    inside = ((clean >= low) & (clean <= high)).float().mean()
    share = (DRAWS - 3) / (DRAWS + 1)  # of a further draw, between the second and the last but one
    return {
        "coverage": f"{float(inside):.3f}",
        "promised": f"{share:.3f}",
        "width": f"{float((high - low).mean()):.3f}",
    }


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="what `run` wrote")]) -> None:
    """Print the figures as Markdown."""
    print(
        "| task | method | steps | PSNR in dB | in the interval | promised | its width | seconds |\n"
        + "| --- " * 8
        + "|"
    )
    for r in kept.read(rows):
        share, promised = (f"{float(r[n]):.1%}" if r[n] else "" for n in ("coverage", "promised"))
        print(f"| {r['task']} | {r['method']} | {r['steps']} | {float(r['psnr']):.2f} ± {float(r['half']):.2f} | {share} | {promised} "
              f"| {r['width']} | {r['seconds']} |")  # fmt: skip


if __name__ == "__main__":
    app()
