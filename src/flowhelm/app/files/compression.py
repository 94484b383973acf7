"""How strongly a JPEG file is compressed, from its own quantisation tables."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, JpegImagePlugin
from torch.nn.functional import avg_pool2d

from ...noise_level import before_jpeg
from ...operators.jpeg import luma_steps

STRONG = 60
"""The quality up to which blocks are seen."""


def as_noise(quality: int) -> float:
    """The standard deviation, in [-1, 1], of noise that is as far from the clean picture as what JPEG did, to the prior's eye: a sixth
    of a mean quantisation step (measured; `python -m flowhelm.bench.quality.noise_level`)."""
    return float(f"{float(luma_steps(quality).mean()) / 6 / 127.5:.3g}")


def jpeg_quality(file: str | Path | bytes) -> int | None:
    """libjpeg's quality, 1 to 100, whose table is nearest to that of a file or its bytes; None of a file that is no JPEG."""
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, ValueError):  # said by whoever reads the picture
        return None
    if not tables:
        return None
    steps = sum(tables[min(tables)])
    return min(range(1, 101), key=lambda quality: (abs(float(luma_steps(quality).sum()) - steps), -quality))


def noise_before(file: str | Path | bytes) -> float:
    """The standard deviation of white noise that a JPEG file's picture had before it was compressed; 0 where none is seen, or in grey.

    The smaller of what brightness and colours tell: texture is seldom in the colours, and what is killed by rounding is not guessed.
    """
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode != "RGB":
                return 0.0
            tables, halved = image.quantization, JpegImagePlugin.get_sampling(image) == 2
            if JpegImagePlugin.get_sampling(image) not in (0, 2) or len(tables) < 2:
                return 0.0
            image.draft("YCbCr", image.size)
            planes = torch.from_numpy(np.asarray(image, np.float32)).movedim(-1, 0)[None] / 127.5 - 1
    except (OSError, ValueError):  # said by whoever reads the picture
        return 0.0
    brightness, colours = planes[:, :1], planes[:, 1:]
    colours = avg_pool2d(colours, 2) if halved else colours
    steps = [torch.tensor(tables[key], dtype=torch.float32).reshape(8, 8) for key in sorted(tables)[:2]]
    told = [before_jpeg(brightness[0, 0], steps[0]) / 0.669]  # white noise in RGB, as it is in Y, Cb and Cr
    told += [
        before_jpeg(c, steps[1], halved=halved) / share * (2 if halved else 1)
        for c, share in zip(colours[0], (0.623, 0.654), strict=True)
    ]
    return min(told)
