"""Is a posterior sampler as sure as it may be? Coverage of intervals, ranks (SBC) and TARP, on truths that are known.

All take draws `(n, k, ...)` of k posterior samples for each of n simulated measurements, and the truths `(n, ...)` behind these.
A sampler that is right passes whatever the problem; one that is over-confident (or too wide, or biased) fails with enough n.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tested(NamedTuple):
    """A statistic whose law is known for a right sampler, and the probability `p` of one at least as bad; small p: it is wrong."""

    statistic: float
    p: float


def coverage(draws: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """How often the truth of an entry is in the central interval of each level, `(levels,)`; a right sampler gives the levels.

    Args:
        levels: `(m,)` in (0, 1). With k draws an interval holds at best whole (k + 1)-ths: the interval of level q goes from the
            (k + 1)(1 - q) / 2-th to the (k + 1)(1 + q) / 2-th draw in order, and between them is interpolated.
    """
    _check("coverage", draws, truth)
    k = draws.shape[1]
    ordered = draws.double().flatten(2).sort(dim=1).values
    value = truth.double().flatten(1)[:, None]
    out = []
    for level in levels.double():
        ends = [((k + 1) * (1 + sign * level) / 2 - 1).clamp(0, k - 1) for sign in (-1, 1)]
        low, high = (torch.lerp(ordered[:, int(e.floor())], ordered[:, int(e.ceil())], e - e.floor()) for e in ends)
        out.append(((low <= value[:, 0]) & (value[:, 0] <= high)).double().mean())
    return torch.stack(out)


def ranks(draws: Tensor, truth: Tensor) -> Tensor:
    """How many draws lie below the truth, of every entry: `(n, ...)` int64, uniform on 0 ... k for a right sampler.

    Simulation-based calibration (Talts et al. 2018, arXiv:1804.06788). Ties count half, rounded down.
    """
    _check("ranks", draws, truth)
    value = truth[:, None]
    return (2 * (draws < value).sum(1) + (draws == value).sum(1)) // 2


def rank_test(rank: Tensor, draws: int, bins: int = 10) -> Tested:
    """A chi-squared test of ranks `(n,)` of one quantity against the uniform law on 0 ... draws; the other tail is not looked at.

    Args:
        rank: of one quantity; entries of one picture depend on one another and must not be pooled.
        bins: at most draws + 1; unequal shares are allowed for.
    """
    if rank.ndim != 1:
        raise ValueError(f"rank_test: expected ranks (n,) of one quantity, got {tuple(rank.shape)}")
    bins = min(bins, draws + 1)
    owner = torch.arange(draws + 1) * bins // (draws + 1)
    expected = torch.bincount(owner, minlength=bins).double() * len(rank) / (draws + 1)
    seen = torch.bincount(owner[rank.cpu()], minlength=bins).double()
    statistic = ((seen - expected).square() / expected).sum()
    tail = torch.special.gammaincc(torch.tensor((bins - 1) / 2, dtype=torch.float64), statistic / 2)
    return Tested(float(statistic), float(tail))


def tarp(draws: Tensor, truth: Tensor, references: Tensor) -> Tensor:
    """Share of the draws that are nearer to a reference point than the truth is, `(n,)`; uniform on [0, 1] for a right sampler.

    TARP (Lemos et al. 2023, arXiv:2302.03026, Alg. 2). In many dimensions it sees what marginal intervals do not.

    Args:
        references: `(n, ...)`, chosen without a look at the draws; depending on the measurement they see more (points that never
            do can be blind to a sampler that ignores it).
    """
    _check("tarp", draws, truth)
    if references.shape != truth.shape:
        raise ValueError(f"tarp: expected references {tuple(truth.shape)}, got {tuple(references.shape)}")
    point = references.flatten(1)
    reach = (truth.flatten(1) - point).norm(dim=1)
    return ((draws.flatten(2) - point[:, None]).norm(dim=2) < reach[:, None]).double().mean(1)


def uniform_test(share: Tensor) -> Tested:
    """The Kolmogorov-Smirnov test of values `(n,)` in [0, 1] against the uniform law, by its asymptotic law (n above about 50)."""
    n = len(share)
    ordered = share.double().sort().values.cpu()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    statistic = torch.maximum((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    root = n**0.5
    z = (root + 0.12 + 0.11 / root) * statistic  # Stephens 1970
    j = torch.arange(1, 101, dtype=torch.float64)
    p = 2 * ((-1) ** (j - 1) * (-2 * j**2 * z**2).exp()).sum()
    return Tested(float(statistic), float(p.clamp(0, 1)))


def _check(who: str, draws: Tensor, truth: Tensor) -> None:
    if draws.ndim < 2 or (len(draws), *draws.shape[2:]) != tuple(truth.shape):
        raise ValueError(
            f"{who}: expected draws (n, k, ...) and truths (n, ...), got {tuple(draws.shape)} and {tuple(truth.shape)}"
        )
