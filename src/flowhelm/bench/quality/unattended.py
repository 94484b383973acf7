"""`flowhelm restore photo.jpg` without another word: what it gains, on which pictures it loses, and which it leaves alone.

    python -m flowhelm.bench.quality.unattended --data free_photos.zip --folder . --last 20
    python -m flowhelm.bench.quality.unattended --data test_photos.zip --every 4

The middle of every picture is damaged in each way, saved, and restored from the file alone. Gain: PSNR of what comes back minus that of
the file, in dB, a mean with its 95 % interval over pictures. Worse: by more than 0.05 dB. A sharp picture without noise in a PNG file has
nothing to gain: of it the PSNR to itself is printed where it is not left alone. Beside it what two libraries give that are asked for no
number either, by their own estimates of the noise: non-local means of scikit-image (with PyWavelets), and deepinv with one call of our
prior.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Annotated, NamedTuple

import torch
import typer

from ...app.files.pictures import read, to_pil
from ...app.restore.restorer import Restorer
from ...known import PHOTOS
from ...metrics import psnr
from ..intervals import interval
from .blur import UNIT, blurred
from .chain import Damage, deepinv, scikit, unasked
from .denoising import photos

DAMAGES = tuple(
    (sigma, level, quality)
    for sigma, levels, qualities in ((0.0, (0, 4, 8, 15, 30), (None, 95, 85, 70)), (1.3, (0, 4, 8), (None, 90)))
    for level in levels
    for quality in qualities
)
"""Deviation of a Gaussian blur in pixels, of white noise in levels of 255, and quality of the JPEG file; None: a PNG file."""
LEAST = 0.05
RIVALS = "scikit-image: non-local means", "deepinv: estimate, one call of our prior"
"""Those chains of `bench.quality.chain` that are given no number."""
NOTHING = Damage(1.0, 0, 100)
"""What the others of them are given."""


class Row(NamedTuple):
    """What came of one file: PSNR in dB before and after, and the operator; None: it was left alone; PSNR by each of `RIVALS`."""

    name: str
    came: float
    back: float
    operator: str | None
    rivals: tuple[float, ...] = ()


def line(damage: tuple[float, int, int | None], rows: Sequence[Row]) -> str:
    """A row of the table: of one damage, over pictures."""
    sigma, level, quality = damage
    alone, touched = sum(r.operator is None for r in rows), [r for r in rows if r.operator is not None]
    words = f"| {sigma:g} | {level} | {quality or 'PNG'} | {alone} of {len(rows)} | "
    if any(math.isinf(r.came) for r in rows):
        back = ", ".join(f"{r.name} at {r.back:.1f} dB" for r in touched)
        theirs = [f"at {fmean(each):.1f} dB" for each in zip(*(r.rivals for r in rows), strict=True)]
        return (
            words + " | ".join([f"nothing to gain{': ' + back if back else ''}", "", str(len(touched)), *theirs]) + " |"
        )
    gains = [r.back - r.came for r in rows]
    theirs = [interval([a - r.came for a, r in zip(each, rows, strict=True)]).shown(2)
              for each in zip(*(r.rivals for r in rows), strict=True)]  # fmt: skip
    worse = str(sum(g < -LEAST for g in gains))
    return words + " | ".join([interval(gains).shown(2), f"{min(gains):.2f}", worse, *theirs]) + " |"


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    last: Annotated[int | None, typer.Option(min=1, help="only the last so many pictures by name")] = None,
    every: Annotated[int, typer.Option(min=1, help="take each so-manieth picture")] = 1,
    size: Annotated[int, typer.Option(min=64, help="side of the middle that is taken")] = 192,
) -> None:
    """Damage, save, restore, and print a row for each kind of damage."""
    if not all(map(find_spec, ("skimage", "pywt"))):
        raise typer.BadParameter("scikit-image and PyWavelets are missing: pip install scikit-image PyWavelets")
    torch.set_num_threads(1)
    restorer, taken = Restorer(PHOTOS, threads=1), list(photos(data, folder, last, None))[::every]
    heads = " | ".join(["blur, px", "noise", "quality", "left alone", "gain, dB", "least", "worse", *RIVALS])
    print(f"| {heads} |\n" + "| --- " * (7 + len(RIVALS)) + "|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for sigma, level, quality in DAMAGES:
            rows = []
            for seed, photo in enumerate(taken):
                side = min(size, *(n - 24 for n in photo.clean.shape[-2:]))
                clean, y = blurred(
                    photo.clean, {"kernel": "gaussian", "sigma": max(sigma, 0.1)}, level / UNIT, side, seed
                )
                file = Path(place) / ("photo.png" if quality is None else "photo.jpg")
                to_pil(y[None]).save(file, quality=quality or 100)  # which PNG has none of
                came = read(file).pixels[0]
                with torch.no_grad():
                    back, operator = unasked(restorer, file)
                    chains = dict([*scikit(came, NOTHING), *deepinv(restorer, came, NOTHING)])
                    theirs = [chains[name]() for name in RIVALS]
                before, after, *others = (
                    float(psnr(each[None].clamp(-1, 1), clean[None])) for each in (came, back, *theirs)
                )
                rows.append(Row(Path(photo.name).stem, before, after, operator, tuple(others)))
            print(line((sigma, level, quality), rows), flush=True)


if __name__ == "__main__":
    typer.run(main)
