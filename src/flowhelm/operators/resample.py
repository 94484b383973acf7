"""Super-resolution: the operator makes a picture smaller."""

from typing import Literal

import torch

from flowhelm.entry import Count, guarded
from flowhelm.measure import LinearOperator


@guarded
def superres(
    shape: tuple[int, int, int],
    *,
    factor: Count = 2,
    filter: Literal["average", "bicubic", "decimate"] = "average",
) -> LinearOperator:
    """Enlarge a picture.

    A small pixel lies at the centre of the factor x factor block that it stands for, as in Pillow and in
    torch's `interpolate`, except with `decimate`; at the border the picture is continued periodically.

    Options:
        factor: how many times larger each side becomes; at least 1
        filter: how the small picture was made; `average` of each block, `bicubic` with anti-aliasing (a = -1/2), or
            `decimate`, the top left pixel of each block as it is (the PnP-Flow paper's)

    Raises ValueError if a side is not a multiple of the factor.

    flowhelm's own.
    """
    _, height, width = shape
    if height % factor or width % factor:
        raise ValueError(
            f"superres: expected sides that are multiples of the factor {factor}, got {height} x {width}; "
            f"crop to {height - height % factor} x {width - width % factor}"
        )
    from .exact import Decimate

    if filter == "average":
        return Decimate(shape, torch.full((factor,), 1 / factor), 0, factor)
    if filter == "decimate":
        return Decimate(shape, torch.ones(1), 0, factor)
    offset = torch.arange(-2 * factor, 3 * factor, dtype=torch.float64)
    d = ((offset + 0.5) / factor - 0.5).abs()  # to the block's centre, in small pixels
    near = 1.5 * d**3 - 2.5 * d**2 + 1  # Keys 1981, a = -1/2
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    taps = torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
    return Decimate(shape, taps / taps.sum(), -2 * factor, factor)
