"""Blurs by a known kernel.

With an open border, what lies beyond a photograph is blurred into it: the clean picture is larger than the measured one
by the kernel's size less one, and that margin is restored too. With a circular border the picture is continued
periodically, and all solutions are closed in Fourier space.
"""

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from flowhelm.entry import guarded
from flowhelm.measure import LinearOperator

from ..raster import check_cost
from .reading import reading, trace

Width = Annotated[float, Gt(0), Le(200)]
"""Standard deviation of a Gaussian in pixels; its kernel has a hundred times as many entries as its square."""
Angle = Annotated[float, Ge(-180), Le(180)]


@guarded
def deblur(
    shape: tuple[int, int, int],
    *,
    sigma: Literal["auto"] | Width = 1.6,
    kernel: Literal["gaussian", "disc", "line", "auto"] = "gaussian",
    angle: Angle = 0.0,
    border: Literal["open", "circular"] = "open",
) -> LinearOperator:
    """Sharpen a picture blurred by a Gaussian, a disc or a straight line.

    Options:
        sigma: standard deviation of the blur along its axis (pixels): of a disc half its radius, of a line its length / 3.46;
            `auto`, estimated from the photograph
        kernel: `gaussian`; `disc`, as out of focus; `line`, as by a motion; or `auto`, what the photograph has, with its sigma
        angle: of a line, counterclockwise from the horizontal (degrees)
        border: `open`, what lies beyond the picture is blurred into it, as in a photograph (the clean picture has
            5 sigma more pixels on every side, of a disc and a line as many as they reach); or `circular`, the picture wraps around

    flowhelm's own.
    """
    return _blur("deblur", shape, kernel_of(sigma, kernel, angle), border)


@guarded
def motion(
    shape: tuple[int, int, int], *, kernel: Path, border: Literal["open", "circular"] = "open"
) -> LinearOperator:
    """Sharpen a picture blurred by a known kernel, such as the trace of a shaken camera.

    Options:
        kernel: .npy, .npz or picture file of the kernel, made to sum to 1. In an .npz of several, `file.npz:NAME`
            or `file.npz:3` (counted from 0) picks one; without, the first
        border: `open`, what lies beyond the picture is blurred into it, as in a photograph (the clean picture is
            larger by the kernel's height and width less 1); or `circular`, the picture wraps around

    flowhelm's own.
    """
    return _blur("motion", shape, traced(kernel), border)


def gaussian(sigma: float) -> Tensor:
    """The kernel of `deblur`, (h, w), sum 1."""
    reach = math.ceil(5 * sigma)  # where the Gaussian has fallen to 4e-6 of its peak
    width = max(float(sigma), 0.05)  # below it the kernel is one pixel, and soon its square is no number
    profile = (-0.5 * (torch.arange(-reach, reach + 1) / width).square()).exp()
    kernel = profile[:, None] * profile
    return kernel / kernel.sum()


def disc(sigma: float) -> Tensor:
    """An even disc of radius 2 sigma, (h, w), sum 1; each entry is the share of its pixel that the disc covers."""
    radius, parts = 2 * sigma, 16
    reach = math.ceil(radius)
    place = (torch.arange((2 * reach + 1) * parts) + 0.5) / parts - reach - 0.5
    inside = (place[:, None].square() + place.square() <= radius**2).double()
    inside[reach * parts + parts // 2, reach * parts + parts // 2] = 1.0  # of a point one pixel is left
    share = inside.unflatten(1, (-1, parts)).unflatten(0, (-1, parts)).sum((1, 3))
    return (share / share.sum()).float()


def line(sigma: float, angle: float) -> Tensor:
    """A straight line of length sqrt(12) sigma at so many degrees, (h, w), sum 1; its points are shared among the four pixels around."""
    length, turn = math.sqrt(12) * sigma, math.radians(angle)
    points = math.ceil(16 * length) + 1
    along = ((torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5) * length
    reach = math.ceil(length / 2)
    found = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    x, y = along * math.cos(turn) + reach, -along * math.sin(turn) + reach
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            place = row.long().clamp(0, 2 * reach), column.long().clamp(0, 2 * reach)
            found.index_put_(place, share, accumulate=True)
    return (found / found.sum()).float()


KERNELS: dict[str, Callable[[float, float], Tensor]] = {
    "gaussian": lambda sigma, angle: gaussian(sigma),
    "disc": lambda sigma, angle: disc(sigma),
    "line": line,
}


def kernel_of(sigma: float | Literal["auto"], kernel: str = "gaussian", angle: float = 0.0) -> Tensor:
    """The kernel of `deblur`, (h, w), sum 1. Raises ValueError for what is yet to be estimated."""
    if sigma == "auto" or kernel == "auto":
        raise ValueError(
            "deblur: auto is estimated from a photograph that is restored; here expected sigma as a number and kernel as a "
            "gaussian, disc or line (flowhelm.blur_kind estimates them)"
        )
    return KERNELS[kernel](float(sigma), angle)


def traced(kernel: Path) -> Tensor:
    """The kernel of `motion`, (h, w), float32, sum 1. Nothing is ever unpickled."""
    name = str(kernel)
    packed = re.fullmatch(r"(.+\.npz)(?::(.+))?", name, re.IGNORECASE)
    if packed:
        values = _member(packed[1], packed[2] or "0")
    elif name.lower().endswith(".npy"):
        with reading("motion", name):
            values = _numbers(np.load(name, mmap_mode="r", allow_pickle=False))
    else:
        values = trace("motion", name).astype(np.float64)
    values = values.squeeze() if values.ndim > 2 else values
    with np.errstate(over="ignore"):
        total = values.sum() if values.size else 0.0
    if values.ndim != 2 or not np.isfinite(values).all() or not MOST_SUM > total > 1 / MOST_SUM:
        raise ValueError(
            f"motion: expected a kernel of two dimensions, finite and with a positive sum, got shape {values.shape} "
            f"with sum {total:g} in {name!r}; give one kernel, not a stack"
        )
    return torch.from_numpy(values / total).float()


MOST_SUM = 1e30
"""Of a kernel's values: what is squared must be a number."""


def _numbers(array: np.ndarray) -> np.ndarray:
    """In double precision; refused before they are unpacked if they are no real numbers, or too many."""
    if array.dtype.kind not in "buif":
        raise ValueError(f"it holds values of type {array.dtype}; expected real numbers")
    check_cost(8.0 * array.size)
    return array.astype(np.float64)


def _blur(who: str, shape: tuple[int, int, int], kernel: Tensor, border: str) -> LinearOperator:
    from .exact import OpenBlur, OpenSeparableBlur, circular

    if border == "circular":
        return circular(shape, kernel)
    if any(side < more for side, more in zip(shape[1:], kernel.shape, strict=True)):
        raise ValueError(
            f"{who}: expected a clean picture of at least the kernel's {kernel.shape[0]} x {kernel.shape[1]} pixels, "
            f"got {shape[1]} x {shape[2]}; give a larger picture, or border circular"
        )
    u, s, v = torch.linalg.svd(kernel.double())
    if len(s) > 1 and s[1] > 1e-6 * s[0]:
        return OpenBlur(shape, kernel)
    return OpenSeparableBlur(shape, (u[:, 0] * s[0].sqrt()).float(), (v[0] * s[0].sqrt()).float())


def _member(path: str, key: str) -> np.ndarray:
    """One array of an .npz file, by name or number."""
    with reading("motion", path), np.load(path, allow_pickle=False) as archive:
        names = archive.files
    if key not in names:
        if not (key.isdecimal() and int(key) < len(names)):
            raise ValueError(
                f"motion: {path!r} holds {', '.join(names) or 'nothing'}, got {key!r}; "
                f"name one of them or a number below {len(names)}"
            )
        key = names[int(key)]
    with reading("motion", path), zipfile.ZipFile(path) as packed:
        inner = key if key in packed.namelist() else f"{key}.npy"
        check_cost(2.0 * packed.getinfo(inner).file_size)
    with reading("motion", path), np.load(path, allow_pickle=False) as archive:
        return _numbers(archive[key])
