"""How strongly a JPEG file is compressed, from its own quantisation tables."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ...operators.jpeg import luma_steps

STRONG = 60
"""The quality up to which blocks are seen."""


def as_noise(quality: int) -> float:
    """The standard deviation, in [-1, 1], of noise that is as far from the clean picture as what JPEG did, to the prior's eye: a sixth
    of a mean quantisation step (measured; `python -m flowhelm.bench.quality.noise_level`)."""
    return float(f"{float(luma_steps(quality).mean()) / 6 / 127.5:.3g}")


def jpeg_quality(path: str | Path) -> int | None:
    """libjpeg's quality, 1 to 100, whose table is nearest to the file's; None of a file that is no JPEG."""
    try:
        with Image.open(path) as image:
            tables = getattr(image, "quantization", None)
    except (OSError, ValueError):  # said by whoever reads the picture
        return None
    if not tables:
        return None
    steps = sum(tables[min(tables)])
    return min(range(1, 101), key=lambda quality: (abs(float(luma_steps(quality).sum()) - steps), -quality))
