"""What it costs that a file cuts noise off at black and white, and what filling in what was cut off gives back.

    python -m flowhelm.bench.quality.clipping --data free_photos.zip --folder . --last 20
    python -m flowhelm.bench.quality.clipping --data test_photos.zip --every 4
    python -m flowhelm.bench.quality.clipping --data test_photos.zip --every 4 --light      # noise whose variance grows with the light

The middle of every picture gets noise, is rounded to 8 bits, and is denoised by one call of the prior at the true level: as the file
holds it, as everybody does; at the level of what is left of the noise; as the file holds it, with the bias taken off the result afterwards
(Foi 2009); with what was cut off filled in before (`flowhelm.clipping`), as flowhelm does; and, which no file allows, with noise that was
never cut off. PSNR in dB; the gain is that of filling in over the file as it is, with a 95 % interval over pictures.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from torch import Tensor

from ...app.show.strip import strip
from ...clipping import of_mean, unclipped
from ...known import PHOTOS
from ...metrics import psnr
from ...noise_level import one_call
from ...priors.bundled import load
from ...rng import Noise
from ..intervals import interval
from .blur import UNIT
from .denoising import Photo, photos
from .noise_level import eight, light

LEVELS = (4, 8, 15, 30, 50)
WAYS = ("as it is", "at the level that is left", "bias taken off afterwards", "filled in", "never cut off")
FILLED, SHOWN = WAYS.index("filled in"), 30


def ways(photo: Photo, prior: str, level: int, lit: bool, seed: int) -> tuple[Tensor, list[Tensor]]:
    """What a file holds of a picture with noise, and what comes of it by each of `WAYS`; `lit`: of noise that grows with the light."""
    clean, std = photo.clean[None], level / UNIT
    whole = clean + std * (light(clean) if lit else 1.0) * Noise(seed, [0])(clean)
    held = eight(whole)
    denoise = one_call(load(prior).sized(*clean.shape[-2:]))
    usual = denoise(held, std)
    back, left = of_mean(usual.double(), std)
    return held, [
        usual, denoise(held, float(left.mean().sqrt())), back.float(), denoise(unclipped(held, std), std), denoise(whole, std),
    ]  # fmt: skip


def main(
    data: Annotated[Path, typer.Option(help="zip archive of pictures")],
    prior: Annotated[str, typer.Option(help="bundled prior or weights file")] = PHOTOS,
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
    last: Annotated[int | None, typer.Option(min=1, help="only the last so many pictures by name")] = None,
    every: Annotated[int, typer.Option(min=1, help="take each so-manieth picture")] = 1,
    size: Annotated[int, typer.Option(min=32, help="side of the middle that is taken")] = 192,
    lit: Annotated[bool, typer.Option("--light", help="noise whose variance grows with the light")] = False,
    out: Annotated[
        Path | None, typer.Option("--strip", help="picture to write, of what gains the most at 30 levels")
    ] = None,
) -> None:
    """Denoise in each way, and print a row for each level of noise."""
    taken = list(photos(data, folder, last, size))[::every]
    print(f"| noise, levels | cut off | {' | '.join(WAYS)} | gain, dB | least |\n" + "| --- " * (4 + len(WAYS)) + "|")
    for level in LEVELS:
        shares, rows = [], []
        for seed, photo in enumerate(taken):
            held, found = ways(photo, prior, level, lit, seed)
            shares.append(float((held.abs() == 1).float().mean()))
            rows.append([float(psnr(each.clamp(-1, 1), photo.clean[None])) for each in found])
        gains = [of[FILLED] - of[0] for of in rows]
        means = " | ".join(f"{fmean(each):.2f}" for each in zip(*rows, strict=True))
        print(
            f"| {level} | {fmean(shares):.0%} | {means} | {interval(gains).shown(2)} | {min(gains):.2f} |", flush=True
        )
        if out is not None and level == SHOWN:
            best = gains.index(max(gains))
            held, found = ways(taken[best], prior, level, lit, best)
            panels = [
                ("as the file holds it", held),
                ("denoised as it is", found[0]),
                ("denoised, what was cut off filled in", found[FILLED]),
                ("the truth", taken[best].clean),
            ]
            strip([(words, each.clamp(-1, 1)) for words, each in panels], height=256).save(out)


if __name__ == "__main__":
    typer.run(main)
