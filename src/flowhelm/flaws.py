"""Scratches, dust and creases of a scan: what is thin, brighter or darker than all around it, and goes its own way.

    known = flaws(picture)          # (1, 1, h, w): 1 where the picture is sound, 0 where something lies on it

For white and for black on its own, with v the least (greatest) of the channels and a top-hat by a square of 9 pixels:

    lift  = v - opening(v);  c = lift as a share of what is left to white, where v is near white
    line, flank, best = of 12 directions the one whose mean of c along 21 pixels exceeds most that of both sides, 6 pixels away
    p     = logistic of (c, line, flank, mean over the directions, mean of c around) and their products
    p     = 1 where c is great and nothing is around: a speck
    found = what is connected to a p of at least HIGH by p of at least LOW (hysteresis), and long enough or sure

Top-hats and hysteresis are Serra's and Canny's; the weights of p were found by logistic regression on made-up scans of BSDS400, by
`python -m flowhelm.bench.quality.flaws --fit`. What is wider than 8 pixels is not seen.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as fn

from . import raster
from .entry import Fraction, guarded

DEFAULT = 0.6
"""Sensitivity: nine of ten marked pixels are damage, and six of ten damaged ones are marked (docs/unknown-damage.md)."""
REACH, ALONG, AWAY, WAYS = 4, 21, 6, 12
LOW, LIFT, LENGTH, ALIKE, LONE = 0.3, 0.06, 25, 0.65, 0.95
"""p that is grown into; the least lift; pixels that make a line, and their least mean of p; the highest p of what is shorter."""
DOT, BARE = 0.6, 0.01
"""c of a speck at least, and around it at most."""
BAND = 512
_MARGIN = 40
_BIAS = -4.95
_WEIGHTS = (
    -3.76, 13.27, -20.93, 18.19, -14.46, 9.01, -6.77, 5.04, -17.22, 6.57, -0.55, 6.13, -1.44, 1.96, -4.17, 14.51, 16.71,
    -14.79, 1.27, -3.79,
)  # fmt: skip


@guarded
@torch.no_grad()
def flaws(picture: Tensor, *, sensitivity: Fraction = DEFAULT, grow: Annotated[int, Ge(0)] = 0) -> Tensor:
    """Where a picture `(1, c, h, w)` in [-1, 1] is sound: `(1, 1, h, w)`, 1 there and 0 on what looks like damage.

    Args:
        sensitivity: 0 marks hardly anything, 1 much that is none. grow: pixels by which what was found is widened.
    """
    if picture.dim() != 4 or len(picture) != 1 or picture.shape[1] not in (1, 3):
        raise ValueError(f"flaws: expected one picture (1, c, h, w) with c 1 or 3, got {tuple(picture.shape)}")
    high = max(LOW, 1 - 0.1 ** (2 * (1 - sensitivity)))
    found = np.zeros(picture.shape[-2:], bool)
    for light in (picture, -picture):
        share = torch.cat([chance(band)[..., top:end, :] for band, top, end in _bands(light.detach().cpu().float())], 2)
        found |= _connected(share, high)
    return 1 - _widened(torch.from_numpy(found).float()[None, None], grow)


def chance(light: Tensor) -> Tensor:
    """How surely something white lies on a pixel, `(1, 1, h, w)` in [0, 1]; for black give `-picture`."""
    features, seen = features_of(light)
    weights = torch.tensor(_WEIGHTS)
    odds = torch.einsum("bkhw,k->bhw", products(features), weights)[:, None] + _BIAS
    speck = (features[:, :1] > DOT) & (features[:, 4:] < BARE)  # too short for a line, and alone
    return torch.where(speck, 1.0, odds.sigmoid()) * seen


def features_of(light: Tensor) -> tuple[Tensor, Tensor]:
    """The five features `(1, 5, h, w)`, and where there is a lift at all."""
    v = light.amin(1, keepdim=True) / 2 + 0.5
    ground = _widened(-_widened(-v, REACH), REACH)
    lift = v - ground
    share = lift / (1 - ground).clamp(min=0.25)
    c = share.clamp(max=0.8) / 0.8 * ((v - 0.4) / 0.4).clamp(0, 1)
    along = fn.conv2d(_padded(c, ALONG // 2), _strokes())
    sides = torch.cat([_beside(along[:, i : i + 1], math.pi * i / WAYS) for i in range(WAYS)], 1)
    way = (along - sides).argmax(1, keepdim=True)
    wide, near = _mean(c, 8), _mean(c, 3)
    around = (wide * 17**2 - near * 7**2) / (17**2 - 7**2)
    features = [c, along.gather(1, way), sides.gather(1, way), along.mean(1, keepdim=True), around]
    return torch.cat(features, 1), ((share > 0.25) & (lift > LIFT)).float()


def products(features: Tensor) -> Tensor:
    """Features `(b, n, ...)` and the products of any two of them, `(b, n (n + 3) / 2, ...)`."""
    first, second = torch.triu_indices(features.shape[1], features.shape[1])
    return torch.cat([features, features[:, first] * features[:, second]], 1)


def _strokes() -> Tensor:
    """Straight strokes in every direction, `(WAYS, 1, ALONG, ALONG)`, each of sum 1."""
    half = torch.arange(ALONG) - ALONG // 2
    angle = (math.pi * torch.arange(WAYS) / WAYS)[:, None, None]
    across = (half * angle.sin() - half[:, None] * angle.cos()).abs()
    on = (1 - across).clamp(min=0) * ((half * angle.cos() + half[:, None] * angle.sin()).abs() <= ALONG // 2)
    return (on / on.sum((-1, -2), keepdim=True))[:, None]


def _beside(along: Tensor, angle: float) -> Tensor:
    """The greater of what lies on both sides of a direction."""
    x, y = round(AWAY * math.sin(angle)), round(-AWAY * math.cos(angle))
    height, width = along.shape[-2:]
    wide = _padded(along, AWAY)
    one, other = (wide[..., AWAY + s * y : AWAY + s * y + height, AWAY + s * x : AWAY + s * x + width] for s in (1, -1))
    return torch.maximum(one, other)


def _connected(share: Tensor, high: float) -> np.ndarray:
    """Of what is connected to a high share, the long and the lone: `(h, w)`."""
    allowed, grown = (share > LOW).float(), (share > high).float()
    for _ in range(2 * REACH):
        grown = _widened(grown, 1) * allowed
    there = grown[0, 0].numpy() > 0
    if not there.any():
        return there
    # four neighbours count there: a widened line is connected across corners
    wide = _widened(grown, 1)[0, 0].numpy() > 0
    labels = raster.vips().Image.new_from_array(wide.astype(np.uint8)).labelregions().numpy()
    rows, columns = there.nonzero()
    which, values = labels[there], share[0, 0].numpy()[there]
    count = int(labels.max()) + 1
    area = np.bincount(which, minlength=count)
    mean = np.bincount(which, values, count) / area.clip(1)
    top, sides = np.zeros(count), []
    np.maximum.at(top, which, values)
    for place in (rows, columns):
        low, far = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low, which, place)
        np.maximum.at(far, which, place)
        sides.append(far - low + 1)
    long = np.hypot(*sides) >= LENGTH
    keep = np.where(long, mean > ALIKE, (top > max(LONE, high)) & (area > 1)) & (area > 0)
    return there & keep[labels]


def _bands(picture: Tensor) -> list[tuple[Tensor, int, int]]:
    """Bands of rows with a margin, and where in them the rows themselves are."""
    height = picture.shape[-2]
    starts = range(0, height, BAND)
    cut = [(max(0, top - _MARGIN), top, min(height, top + BAND)) for top in starts]
    return [(picture[..., first : end + _MARGIN, :], top - first, end - first) for first, top, end in cut]


def _padded(x: Tensor, by: int) -> Tensor:
    return fn.pad(x, (by, by, by, by), mode="replicate")


def _widened(x: Tensor, by: int) -> Tensor:
    return fn.max_pool2d(_padded(x, by), 2 * by + 1, 1)


def _mean(x: Tensor, by: int) -> Tensor:
    return fn.avg_pool2d(_padded(x, by), 2 * by + 1, 1)
