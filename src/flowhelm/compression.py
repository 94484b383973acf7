"""How strongly a JPEG file is compressed, from its own quantisation tables."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .operators.jpeg import luma_steps

Array = np.ndarray[Any, np.dtype[np.float32]]
STRONG = 60
"""The quality up to which blocks are seen."""


def jpeg_quality(file: str | Path | bytes) -> int | None:
    """libjpeg's quality, 1 to 100, whose table is nearest to that of a file or its bytes; None of a file that is no JPEG."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, ValueError):  # said by whoever reads the picture
        return None
    if not tables:
        return None
    steps = sum(tables[min(tables)])
    return min(range(1, 101), key=lambda quality: (abs(float(luma_steps(quality).sum()) - steps), -quality))


def noise_before(file: str | Path | bytes) -> float:
    """The standard deviation, in [-1, 1], of white noise that a JPEG file's picture had before it was compressed; 0 of other files.

    That which, added to an even grey and compressed with the file's own tables, leaves as much fine contrast in the flattest windows of
    the picture as there is. Noise is alike in all flat windows; where the next ones have much more contrast, it is texture.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in ("L", "RGB"):
                return 0.0
            tables = tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
            halved = JpegImagePlugin.get_sampling(image)
            pixels = np.asarray(image, np.float32)
    except (OSError, ValueError):  # said by whoever reads the picture
        return 0.0
    if min(pixels.shape[:2]) < 4 * _WINDOW:
        return 0.0
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    left, level = _left(tables, halved, grey), 5.0
    for _ in range(3):  # noise that is clipped is weaker
        bright, *colours = _contrasts(pixels, halved, grey, 2 * level)
        level = float(np.interp(bright, left[0], LEVELS))
        # texture is seldom in the colours: noise that is not seen there where it would be is none
        level = min(
            [level, *(float(np.interp(1.1 * c + 0.1, most, LEVELS)) for c, most in zip(colours, left[1:], strict=True))]
        )
    if level < STRONG_NOISE and _contrasts(pixels, halved, grey, 2 * level, 0.1)[0] > TEXTURE * bright:
        return 0.0
    return level / 127.5


TEXTURE, STRONG_NOISE = 1.7, 15.0
"""How many times the contrast of the flattest 3 % of the windows that of the flattest tenth is at most, of noise: up to 1.5 in 97 of 100
pictures with noise of 5 to 20 levels, 1.85 and more in those that are textured everywhere. Stronger noise is not mistaken."""
LEVELS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0, 28.0, 40.0, 56.0, 80.0)
"""Of noise, in levels of 255, that are tried."""
_WINDOW, _FLAT = 16, 0.03
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@cache
def _left(tables: tuple[tuple[int, ...], ...], halved: int, grey: bool, side: int = 256) -> Array:
    """The fine contrasts that noise of each of `LEVELS` leaves in an even grey, in brightness and both colours, `(3 or 1, levels)`."""
    noise = np.random.default_rng(0).standard_normal((side, side, 1 if grey else 3))
    found = []
    for level in LEVELS:
        pixels = (128 + level * noise).round().clip(0, 255).astype(np.uint8)
        packed = io.BytesIO()
        image = Image.fromarray(pixels[..., 0] if grey else pixels).convert("L" if len(tables) == 1 else "RGB")
        image.save(packed, "JPEG", qtables=[list(table) for table in tables], subsampling=halved if halved >= 0 else 2)
        found.append(_contrasts(np.asarray(Image.open(packed), np.float32), halved, grey, 0.0))
    # where all is rounded away the strongest noise of which that is so counts
    rising: Array = np.maximum.accumulate(np.array(found).T, 1) + 1e-6 * np.arange(len(LEVELS))
    return rising


def _contrasts(pixels: Array, halved: int, grey: bool, room: float, share: float = _FLAT) -> list[float]:
    """The standard deviations of brightness and of both colours (unless grey) around their means of 3 x 3, in the flattest windows of
    those with so much room to black and white, at least of half of the picture."""
    rgb = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).movedim(-1, 0)
    mixed = rgb[:1] if grey else torch.einsum("ij,jhw->ihw", _TO_YCC, rgb)
    found = [_contrast(mixed[:1], mixed[:1], room, share)]
    for colour in mixed[1:]:
        plane, light = (avg_pool2d(each, 2) if halved == 2 else each for each in (colour[None], mixed[:1]))
        found.append(_contrast(plane, light, room, share))
    return found


def _contrast(plane: Tensor, light: Tensor, room: float, share: float) -> float:
    fine = plane - avg_pool2d(pad(plane, (1, 1, 1, 1), mode="reflect"), 3, 1)
    energy, light = (avg_pool2d(each, _WINDOW, _WINDOW // 2).flatten() for each in (fine.square(), light))
    apart = 127.5 - (light - 127.5).abs()
    far = apart.topk(max(len(light) // 2, int((apart > room).sum()))).indices
    return float(energy[far].kthvalue(max(1, round(share * len(far)))).values.sqrt())
