"""What a JPEG file has lost, taken back: by quality, one call of the prior with and without the adapter `jpeg`, beside others' tools.

    python -m flowhelm.bench.quality.compressed --data test_photos.zip --csv compressed.csv
    python -m flowhelm.bench.quality.compressed --data free_photos.zip --folder . --last 24 --csv free.csv

The middle of a clean picture gets white noise or none and is saved as a JPEG file (libjpeg's tables, 4:2:0). Nobody is told the quality
or the noise: flowhelm reads the tables, as `flowhelm restore photo.jpg --operator denoise` does; OpenCV's non-local means and
scikit-image's total variation are given the strength, of four, that has the highest mean PSNR over the pictures of a row. PSNR in dB over
the three channels. Rows are appended to the CSV file, one for each picture and kind of file; run the command again to go on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ...app.files.pictures import read, to_pil
from ...app.restore.noise import of_photo
from ...app.restore.restorer import Restorer
from ...known import PHOTOS
from ...metrics import psnr
from ...noise_level import one_call
from ...rng import Noise
from .. import kept
from ..intervals import interval
from .denoising import Photo, photos

FILES = ((0, 10), (0, 20), (0, 40), (0, 60), (0, 75), (0, 85), (0, 92), (5, 75), (15, 75), (25, 60))
"""Noise in levels of 255, and quality."""
LOWER = (3, 5, 8, 12), (0.02, 0.04, 0.08, 0.15)
"""Strengths of OpenCV's non-local means, and weights of scikit-image's total variation."""
ADAPTER = "`flowhelm restore photo.jpg --operator denoise`"


def of_file(restorer: Restorer, file: Path, eight: bool) -> dict[str, Tensor]:
    """Restored pictures `(3, h, w)`, by who made them."""
    came = read(file).pixels
    flow = restorer.flow.sized(*came.shape[-2:])
    seen = of_photo(came, flow, file)
    made = {
        "as it came": came[0],
        f"one call of `{PHOTOS}`": one_call(flow)(came, max(seen.std(), seen.blocks))[0],
        ADAPTER: restorer(file, "denoise").picture,
    }
    if eight:
        made["`--operator jpeg`, eight calls"] = restorer(file, "jpeg").picture
    return made | others(came)


def others(came: Tensor) -> dict[str, Tensor]:
    """Those of OpenCV and scikit-image, where they are installed, at each of their strengths."""
    pixels = ((came[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    back: Callable[[np.ndarray], Tensor] = lambda y: torch.from_numpy(y).permute(2, 0, 1).float() / 127.5 - 1  # noqa: E731
    made = {}
    if find_spec("cv2"):
        import cv2

        for h in LOWER[0]:
            made[f"OpenCV non-local means {h}"] = back(cv2.fastNlMeansDenoisingColored(pixels, None, h, h))
    if find_spec("skimage"):
        from skimage.restoration import denoise_tv_chambolle

        for weight in LOWER[1]:
            smooth = denoise_tv_chambolle(pixels / 255.0, weight=weight, channel_axis=-1)
            made[f"scikit-image total variation {weight:g}"] = back(255 * smooth)
    return made


def saved(photo: Photo, level: float, quality: int, file: Path) -> None:
    """A picture with noise of so many levels as a JPEG file."""
    noise = Noise(0, [(photo.name, str(level))])(photo.clean[None])[0]
    to_pil((photo.clean + level / 127.5 * noise)[None]).save(file, "JPEG", quality=quality)


def table(rows: list[dict[str, str]]) -> str:
    """Means by kind of file and who made them, of others at their best strength; what the adapter gains on each picture, and the worst."""
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        found = groups.setdefault((row["noise"], row["quality"]), {})
        found.setdefault(row["method"], []).append(float(row["psnr"]))
    lines: list[str] = []
    every: list[float] = []
    for (noise, quality), found in groups.items():
        best: dict[str, list[float]] = {}
        for name, values in found.items():
            who = name.rsplit(" ", 1)[0] if name.startswith(("OpenCV", "scikit-image")) else name
            if who not in best or np.mean(values) > np.mean(best[who]):
                best[who] = values
        if not lines:
            lines = [f"| noise | quality | {' | '.join(best)} | gain | least gain |", "|" + " --- |" * (len(best) + 4)]
        gains = [ours - came for ours, came in zip(best[ADAPTER], best["as it came"], strict=True)]
        every += gains
        means = " | ".join(f"{np.mean(values):.2f}" for values in best.values())
        lines.append(f"| {noise} | {quality} | {means} | {interval(gains).shown(2)} | {min(gains):.2f} |")
    worse = sum(gain < 0 for gain in every)
    return "\n".join(
        [*lines, "", f"worse than they came: {worse} of {len(every)} files, the worst by {-min(every):.2f} dB"]
    )


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    last: Annotated[int | None, typer.Option(min=1, help="only the last so many pictures by name")] = None,
    every: Annotated[int, typer.Option(min=1, help="take each so-manieth picture")] = 1,
    size: Annotated[int, typer.Option(min=64, help="side of the middle that is taken")] = 192,
    eight: Annotated[
        bool, typer.Option("--eight", help="with the operator jpeg, too, which takes ten times as long")
    ] = False,
    out: Annotated[Path | None, typer.Option("--csv", help="file of the rows, appended to")] = None,
) -> None:
    """Save, restore, and print a row for each kind of file."""
    torch.set_num_threads(1)
    restorer, rows = Restorer(PHOTOS, threads=1), kept.stored(out)
    done = {(row["image"], row["noise"], row["quality"]) for row in rows}
    taken = list(photos(data, folder, last, size))[::every]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "photo.jpg"
        for number, photo in enumerate(taken, 1):
            for level, quality in FILES:
                if (photo.name, str(level), str(quality)) in done:
                    continue
                saved(photo, level, quality, file)
                found = {
                    who: float(psnr(made[None], photo.clean[None]))
                    for who, made in of_file(restorer, file, eight).items()
                }
                said = {"image": photo.name, "noise": str(level), "quality": str(quality)}
                new = [said | {"method": who, "psnr": f"{value:.4f}"} for who, value in found.items()]
                kept.append(out, *new)
                rows += new
            print(f"{number} of {len(taken)} pictures", flush=True)
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
