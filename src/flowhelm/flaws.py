"""Scratches, dust and creases of a scan, marked by a small network that was trained on made-up ones (`flowhelm train scratches`).

known = flaws(picture)          # (1, 1, h, w): 1 where the picture is sound, 0 where something lies on it

p     = how surely a pixel is damage, by the network (`priors.marker`)
found = what is connected to a p of at least HIGH by p of at least LOW (hysteresis, Canny 1986)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as fn

from . import raster
from .entry import Fraction, guarded
from .priors.marker import marker

DEFAULT = 0.6
"""Sensitivity at which nearly all that is marked is damage (docs/unknown-damage.md)."""
LOW = 0.5
"""Share of the least p that begins a mark, down to which it grows."""
LEAST = 0.2
"""The least p that begins a mark, at a sensitivity of 1."""
BAND = 512
"""Rows that the network sees at a time, and a margin."""


@guarded
@torch.no_grad()
def flaws(picture: Tensor, *, sensitivity: Fraction = DEFAULT, grow: Annotated[int, Ge(0)] = 0) -> Tensor:
    """Where a picture `(1, c, h, w)` in [-1, 1] is sound: `(1, 1, h, w)`, 1 there and 0 on what looks like damage.

    Args:
        sensitivity: 0 marks hardly anything, 1 much that is none. grow: pixels by which what was found is widened.
    """
    if picture.dim() != 4 or len(picture) != 1 or picture.shape[1] not in (1, 3):
        raise ValueError(f"flaws: expected one picture (1, c, h, w) with c 1 or 3, got {tuple(picture.shape)}")
    high = max(LEAST, 1 - 10 ** (-2.5 * (1 - sensitivity)))
    found = _connected(chance(picture.detach().cpu().float()), high)
    return 1 - _widened(torch.from_numpy(found).float()[None, None], grow)


def chance(picture: Tensor) -> Tensor:
    """How surely something lies on a pixel, `(1, 1, h, w)` in [0, 1]; band by band, which changes nothing."""
    net, height = marker(), picture.shape[-2]
    step, margin = -(-BAND // net.stride) * net.stride, -(-net.reach // net.stride) * net.stride
    shares = []
    for top in range(0, height, step):
        first = max(0, top - margin)
        band = net(picture[..., first : top + step + margin, :].expand(-1, 3, -1, -1))
        shares.append(band[..., top - first : top - first + step, :].sigmoid())
    return torch.cat(shares, 2)


def _connected(share: Tensor, high: float) -> np.ndarray:
    """Of what is above `LOW` times a high share, all that is connected to one above it: `(h, w)`."""
    values = share[0, 0].numpy()
    there = values > LOW * high
    # four neighbours count there: a widened line is connected across corners
    wide = _widened(torch.from_numpy(there).float()[None, None], 1)[0, 0].numpy() > 0
    labels = raster.vips().Image.new_from_array(wide.astype(np.uint8)).labelregions().numpy()
    top = np.zeros(int(labels.max()) + 1)
    np.maximum.at(top, labels[there], values[there])
    found: np.ndarray = there & (top > high)[labels]
    return found


def _widened(x: Tensor, by: int) -> Tensor:
    return fn.max_pool2d(fn.pad(x, (by, by, by, by), mode="replicate"), 2 * by + 1, 1)
