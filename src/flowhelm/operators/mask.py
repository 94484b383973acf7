"""Operators that keep some entries of the picture and set the others to 0."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from flowhelm.entry import guarded
from flowhelm.measure import LinearOperator

from .reading import known as read_known

SOFT = 0.03
"""How far from black and white a mask is no edge of one: JPEG moves them by less."""


@guarded
def inpaint(shape: tuple[int, int, int], *, mask: Path | Tensor, invert_mask: bool = False) -> LinearOperator:
    """Fill in the missing part of a picture, marked by a mask picture.

    Options:
        mask: picture of the clean picture's size, white = known, black or transparent = missing; grey splits at half, and
            where it is soft the result is mixed with the photograph by it; alpha: the photograph's own transparency. In Python also a
            tensor (h, w), (1, h, w) or (c, h, w) from 0 (missing) to 1 (known)
        invert_mask: white (or opaque) = missing instead

    Raises ValueError for a mask of another size, and for one with nothing missing or nothing known.

    flowhelm's own.
    """
    weight = _weight(mask, shape)
    weight = 1 - weight if invert_mask else weight
    known = weight >= 0.5
    if known.all() or not known.any():
        name = "the mask" if isinstance(mask, Tensor) else repr(str(mask))
        raise ValueError(
            f"inpaint: {name} has nothing {'missing' if known.any() else 'known'}, expected both known (white) and "
            "missing (black) pixels; check that the right picture was given and whether it must be inverted"
        )
    made = _keep(shape, known)
    soft = (weight > SOFT) & (weight < 1 - SOFT)
    made.weight = torch.where(soft, weight, known.float()) if soft.any() else None  # type: ignore[attr-defined]
    return made


@guarded
def box(
    shape: tuple[int, int, int],
    *,
    size: Annotated[int, Ge(0)] = 0,
    top: Annotated[int, Ge(-1)] = -1,
    left: Annotated[int, Ge(-1)] = -1,
) -> LinearOperator:
    """Fill in a missing square.

    Options:
        size: side of the square (pixels); 0 is a quarter of the picture's shorter side
        top: first missing row (pixels); -1 centres the square
        left: first missing column (pixels); -1 centres the square

    flowhelm's own.
    """
    _, height, width = shape
    size = size or max(1, min(height, width) // 4)
    top = (height - size) // 2 if top == -1 else top
    left = (width - size) // 2 if left == -1 else left
    inside = 0 <= top <= height - size and 0 <= left <= width - size
    if not inside or size == height == width:
        raise ValueError(
            f"box: a square of {size} pixels at row {top}, column {left} must lie inside the {height} x {width} "
            "picture and leave something known; choose a smaller size or another place"
        )
    known = torch.ones(1, height, width, dtype=torch.bool)
    known[:, top : top + size, left : left + size] = False
    return _keep(shape, known)


@guarded
def random_mask(
    shape: tuple[int, int, int], *, missing: Annotated[float, Gt(0), Lt(1)] = 0.7, seed: int = 0
) -> LinearOperator:
    """Fill in pixels missing at random places, the same in every channel.

    Options:
        missing: share of the pixels that is missing, between 0 and 1; their number is exact
        seed: number that decides which places are missing

    flowhelm's own.
    """
    _, height, width = shape
    count = round(missing * height * width)
    if not 0 < count < height * width:
        raise ValueError(
            f"random_mask: missing={missing} leaves out {count} of {height * width} pixels, expected at least one "
            "missing and one known; pass a share nearer to a half"
        )
    known = torch.ones(height * width, dtype=torch.bool)
    known[torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))[:count]] = False
    return _keep(shape, known.reshape(1, height, width))


@guarded
def demosaic(
    shape: tuple[int, int, int], *, pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = "RGGB"
) -> LinearOperator:
    """Restore all colours from a camera's mosaic of one colour per pixel (Bayer).

    The measurement has 3 channels, 0 where a colour was not seen; a raw mosaic of one channel may be repeated
    three times, since what the operator does not see does not count.

    Options:
        pattern: the colours of the top left 2 x 2 pixels, row by row

    Bayer 1976.
    """
    channels, height, width = shape
    if channels != 3:
        raise ValueError(f"demosaic: expected a picture of 3 channels, got {channels}; convert it to RGB")
    known = torch.zeros(3, height, width, dtype=torch.bool)
    for place, colour in enumerate(pattern):
        known["RGB".index(colour), place // 2 :: 2, place % 2 :: 2] = True
    return _keep(shape, known)


def _keep(shape: tuple[int, int, int], known: Tensor) -> LinearOperator:
    from deepinv.physics import Inpainting

    return Inpainting(shape, mask=known.float())


def _weight(mask: Path | Tensor, shape: tuple[int, int, int]) -> Tensor:
    """How much of a pixel is known, in [0, 1], (1, h, w) or (c, h, w)."""
    if isinstance(mask, Tensor):
        if not ((mask >= 0) & (mask <= 1)).all():
            raise ValueError(
                "inpaint: expected a mask from 0 (missing) to 1 (known), got other values; compare it first"
            )
        known = mask.float().cpu()
        known = known if known.ndim == 3 else known[None]
    else:
        known = torch.from_numpy(read_known("inpaint", str(mask)))[None]
        if not known.isfinite().all():
            raise ValueError(f"inpaint: {str(mask)!r} holds NaN or infinite values; expected white and black")
    channels, height, width = shape
    if known.ndim != 3 or known.shape[0] not in (1, channels) or known.shape[1:] != (height, width):
        got = " x ".join(map(str, known.shape if isinstance(mask, Tensor) else known.shape[1:]))
        raise ValueError(
            f"inpaint: expected a mask of the picture's height x width, {height} x {width}, got {got}"
            f"{'' if isinstance(mask, Tensor) else f' in {str(mask)!r}'}; draw it at the picture's size"
        )
    return known
