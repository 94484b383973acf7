"""What samples of a posterior say together: `(k, c, h, w)`, k samples for one measurement, pixel by pixel. Few and large pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .diversity import euclidean, farthest

LEVELS = (0.05, 0.5, 0.95)


class Maps(NamedTuple):
    """Of every entry: mean and std `(c, h, w)`, quantiles `(levels, c, h, w)`, float32."""

    mean: Tensor
    std: Tensor
    quantiles: Tensor


def posterior_maps(samples: Tensor, levels: Sequence[float] = LEVELS) -> Maps:
    """Mean, standard deviation (its square is unbiased: divided by k - 1) and `quantiles` of samples `(k, c, h, w)`. flowhelm's own.

    Computed in float64: entries that are equal in all samples have std 0, exactly.
    """
    if len(samples) < 2:
        raise ValueError(f"posterior_maps: expected two samples or more, got {len(samples)}")
    first = samples[0].double()
    moved = samples.double() - first  # equal entries are 0 now, and so are their mean and std, without rounding
    return Maps((first + moved.mean(0)).float(), moved.std(0).float(), quantiles(samples, levels).float())


def quantiles(samples: Tensor, levels: Sequence[float]) -> Tensor:
    """The level (k + 1)-th of k samples `(k, ...)` in order, interpolated, at most the extreme ones: `(levels, ...)`. flowhelm's own.

    A further draw of the same law is below the j-th of k with probability j / (k + 1), whatever the law, so an interval of these
    holds the truth as often as it says (`coverage` uses the same). Below a level of 1 / (k + 1) there is no such sample:
    the smallest stands for it, and `held` says what an interval then really holds.
    """
    k = len(samples)
    ordered = samples.sort(dim=0).values
    out = []
    for level in levels:
        place = min(max((k + 1) * level - 1, 0.0), k - 1.0)
        low = int(place)
        out.append(torch.lerp(ordered[low], ordered[min(low + 1, k - 1)], place - low))
    return torch.stack(out)


def held(count: int, low: float, high: float) -> float:
    """The probability that the interval between two `quantiles` of `count` samples holds a further draw."""
    ends = [min(max(level, 1 / (count + 1)), count / (count + 1)) for level in (low, high)]
    return ends[1] - ends[0]


def spread_out(distances: Tensor, count: int) -> Tensor:
    """Indices of a few of k samples by their distances `(k, k)`: the most central one, then each the farthest from those before."""
    return farthest(distances, min(count, len(distances)), first=int(distances.sum(1).argmin()))


def distances(samples: Tensor, rows: int = 64) -> Tensor:
    """Euclidean distances of samples `(k, c, h, w)`: `(k, k)` float64, so many rows of pixels at a time."""
    return sum((euclidean(band).square() for band in samples.split(rows, dim=-2)), torch.zeros(())).sqrt()
