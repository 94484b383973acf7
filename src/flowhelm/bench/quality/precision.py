"""What bfloat16 costs a restoration, and what it saves: PSNR and seconds of the loop beside those of float32, picture by picture.

    python -m flowhelm.bench.quality.precision --data test_photos.zip
    python -m flowhelm.bench.quality.precision --data test_photos.zip --every 17 --size 256

Every picture is damaged once, with noise of 0.02 or 0.2, and restored twice by the defaults; `float32` and `bfloat16` take turns.
Change: of PSNR, bfloat16 minus float32, a mean over pictures with its 95 % interval, and the picture that loses most. Apart: the
PSNR of one result against the other. Ratio: of the seconds, the median of the pairs.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import torch
import typer

from ...app.restore.restorer import Restorer
from ...known import PHOTOS
from ...train import seeded
from ..intervals import interval
from .denoising import photos

TASKS: dict[str, dict[str, Any]] = {  # of inpainting the mask is drawn below
    "noise 0.2": {"operator": "denoise", "std": 0.2},
    "noise 0.02": {"operator": "denoise", "std": 0.02},
    "blur, 1.6 px": {"operator": "deblur", "std": 0.02, "operator_options": {"sigma": 1.6}},
    "every second pixel": {"operator": "superres", "std": 0.02, "operator_options": {"factor": 2}},
    "70 % of pixels missing": {"operator": "inpaint", "std": 0.02},
}
MISSING = 0.7


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    every: Annotated[int, typer.Option(min=1, help="take each so-manieth picture")] = 8,
    size: Annotated[int, typer.Option(min=32, help="side of the middle that is taken")] = 192,
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    threads: Annotated[int, typer.Option(min=1, help="of the CPU")] = 1,
) -> None:
    """Restore by both, and print a row for each task."""
    both = {dtype: Restorer(prior, threads=threads, dtype=dtype) for dtype in ("float32", "bfloat16")}
    some = list(photos(data, folder, size=size))[::every]
    mask = torch.rand(size, size, generator=seeded(0, 0, purpose="mask")) > MISSING
    TASKS["70 % of pixels missing"]["operator_options"] = {"mask": mask.float()}
    print(f"{len(some)} pictures of {size} x {size}\n")
    print("| task | float32, PSNR | bfloat16, PSNR | change | worst | apart | seconds, ratio |\n|" + " --- |" * 7)
    for name, task in TASKS.items():
        found: dict[str, list[float]] = {dtype: [] for dtype in both}
        apart, ratios = [], []
        for number, photo in enumerate(some):
            made = {}
            for dtype in sorted(both, reverse=bool(number % 2)):
                made[dtype] = both[dtype](photo.clean, simulate=True, seed=number, **task)
                found[dtype].append(float(made[dtype].scores["psnr"]))
            full, half = made["float32"], made["bfloat16"]
            apart.append(-10 * math.log10(float(((full.picture - half.picture) / 2).square().mean())))
            ratios.append(half.seconds / full.seconds)
        change = [b - a for a, b in zip(found["float32"], found["bfloat16"], strict=True)]
        print(
            f"| {name} | {fmean(found['float32']):.2f} | {fmean(found['bfloat16']):.2f} | {interval(change).shown(4)} | {min(change):.3f} "
            f"| {fmean(apart):.1f} | {median(ratios):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
