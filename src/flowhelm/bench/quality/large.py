"""Does a large photograph fit into a small memory, and are there seams? The command itself, in a process of its own.

    python -m flowhelm.bench.quality.large                       # 4000 x 3000 pixels: denoising, one step of deblurring, and eight
    python -m flowhelm.bench.quality.large --width 2000 --height 1500 --only deblur --dtype float32

The peak is that of the process's resident set, libraries and files included. A step of deblurring takes what eight take, one after
another. Seams: the largest difference between the network cut into tiles and whole, on a picture that is small enough for both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ...app.files.pictures import to_pil
from ...app.restore.observation import sized
from ...known import PHOTOS
from ...noise_level import one_call
from ...priors.bundled import load
from ...rng import Noise

STD = 0.1
JOBS = {
    "denoise": ["--operator", "denoise"],
    "deblur, one step": ["--operator", "deblur", "--sigma", "1.6", "--steps", "1"],
    "deblur": ["--operator", "deblur", "--sigma", "1.6"],
}


def scene(height: int, width: int) -> Tensor:
    """Smooth colours with noise, `(1, 3, height, width)`."""
    coarse = Noise(0, [0])(torch.zeros(1, 3, height // 50 + 2, width // 50 + 2))
    picture = fn.interpolate(0.3 * coarse, (height, width), mode="bicubic", align_corners=False)
    return picture + STD * Noise(1, [0])(picture)


def peak(words: list[str]) -> tuple[float, float]:
    """GiB that a command took at most, and its seconds. Raises RuntimeError where it fails."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flowhelm", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"flowhelm {' '.join(words)}: it failed; run it by hand to see why")
    return used.ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30), time.monotonic() - began


def seams(side: int, tile: int, prior: str) -> float:
    """The largest difference, in [-1, 1], that cutting into tiles makes to one call."""
    flow, y = load(prior), scene(side, side)
    whole, cut = (one_call(sized(flow, (3, side, side), each))(y, STD) for each in (0, tile))
    return float((whole - cut).abs().max())


def main(
    width: Annotated[int, typer.Option(min=64)] = 4000,
    height: Annotated[int, typer.Option(min=64)] = 3000,
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    only: Annotated[str | None, typer.Option(help="one job")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as the command has it")] = None,
) -> None:
    """Measure, and print a line for each."""
    print(f"seams of tiles of 128 pixels in 320: {seams(320, 128, prior):.1e} at most", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        to_pil(scene(height, width)).save(photo := Path(folder) / "photo.png")
        print(f"\n| {width} x {height} pixels | peak | seconds |\n| --- | --- | --- |", flush=True)
        for name, words in JOBS.items():
            if only in (None, name):
                typed = ["--dtype", dtype] if dtype else []
                taken, seconds = peak(["restore", str(photo), *words, "--std", str(STD), "--prior", prior, *typed])
                print(f"| {name} | {taken:.2f} GiB | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
