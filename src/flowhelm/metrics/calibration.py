"""Is a posterior sampler as sure as it may be? Coverage of intervals, ranks (SBC) and TARP, on truths that are known.

All take draws `(n, k, ...)` of k posterior samples for each of n simulated measurements, and the truths `(n, ...)` behind these; of a
single number they are `(n, k)` and `(n,)`.
A sampler that is right passes whatever the problem; one that is over-confident (or too wide, or biased) fails with enough n.
`judge` puts the tests together and says in a word which of these it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Tested(NamedTuple):
    """A statistic whose law is known for a right sampler, and the probability `p` of one at least as bad; small p: it is wrong."""

    statistic: float
    p: float


def coverage(draws: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """How often the truth of an entry is in the central interval of each level, `(levels,)`; a right sampler gives the levels.
    flowhelm's own.

    Args:
        levels: `(m,)` in (0, 1). With k draws an interval holds at best whole (k + 1)-ths: the interval of level q goes from the
            (k + 1)(1 - q) / 2-th to the (k + 1)(1 + q) / 2-th draw in order, and between them is interpolated.
    """
    _check("coverage", draws, truth)
    k = draws.shape[1]
    ordered = draws.double()[:, :, None].flatten(2).sort(dim=1).values
    value = truth.double()[:, None].flatten(1)
    out = []
    for level in levels.double():
        ends = [((k + 1) * (1 + sign * level) / 2 - 1).clamp(0, k - 1) for sign in (-1, 1)]
        low, high = (torch.lerp(ordered[:, int(e.floor())], ordered[:, int(e.ceil())], e - e.floor()) for e in ends)
        out.append(((low <= value) & (value <= high)).double().mean())
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
    Pearson 1900.

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


def ecdf_test(rank: Tensor, draws: int) -> Tested:
    """Are ranks `(n,)` of one quantity uniform on 0 ... draws? By the largest |ECDF - uniform| in units of its own deviation.
    Säilynoja et al. 2022, arXiv:2103.10522.

    p is exact for any n and draws, but for the error of 4000 simulated sets of uniform ranks (the law of Kolmogorov and
    Smirnov is that of continuous values, and rejects ranks of few draws). p < 0.05 if and only if the difference leaves
    `ecdf_band`, but for that error.
    """
    if rank.ndim != 1:
        raise ValueError(f"ecdf_test: expected ranks (n,) of one quantity, got {tuple(rank.shape)}")
    counts = torch.bincount(rank.cpu(), minlength=draws + 1)[None]
    statistic, null = _departure(counts)[0], _null(len(rank), draws)
    return Tested(float(statistic), float((1 + (null >= statistic).sum()) / (1 + len(null))))


def ecdf_band(n: int, draws: int, level: float = 0.95) -> Tensor:
    """Half-widths `(draws,)`: the ECDF of n uniform ranks at 0 ... draws - 1 differs less from its law, at all of them at once.

    With probability `level`; as Säilynoja, Bürkner & Vehtari 2022 (arXiv:2103.10522), with the binomial's deviation in
    the place of its quantiles.
    """
    return torch.quantile(_null(n, draws), level) * _deviation(n, draws)


def _deviation(n: int, draws: int) -> Tensor:
    share = torch.arange(1, draws + 1, dtype=torch.float64) / (draws + 1)
    return (share * (1 - share) / n).sqrt()


def _departure(counts: Tensor) -> Tensor:
    """Of sets of ranks by how often each rank is there, `(sets, draws + 1)`: `(sets,)`."""
    draws, n = counts.shape[1] - 1, int(counts[0].sum())
    share = torch.arange(1, draws + 1, dtype=torch.float64) / (draws + 1)
    return ((counts.cumsum(1)[:, :-1] / n - share).abs() / _deviation(n, draws)).amax(1)


@lru_cache(maxsize=16)
def _null(n: int, draws: int, sets: int = 4000) -> Tensor:
    """The law of `_departure` for uniform ranks, as a sample."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(sets, draws + 1, dtype=torch.int64)
    for part in counts.split(max(1, 2_000_000 // n)):
        rank = torch.randint(0, draws + 1, (len(part), n), generator=generator)
        part.scatter_add_(1, rank, torch.ones_like(rank))
    return _departure(counts)


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
    point = references[:, None].flatten(1)
    reach = (truth[:, None].flatten(1) - point).norm(dim=1)
    return ((draws[:, :, None].flatten(2) - point[:, None]).norm(dim=2) < reach[:, None]).double().mean(1)


def uniform_test(share: Tensor) -> Tested:
    """The Kolmogorov-Smirnov test of values `(n,)` in [0, 1] against the uniform law, by its asymptotic law (n above about 50).
    Kolmogorov 1933.
    """
    n = len(share)
    ordered = share.double().sort().values.cpu()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    statistic = torch.maximum((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    root = n**0.5
    z = (root + 0.12 + 0.11 / root) * statistic  # Stephens 1970
    j = torch.arange(1, 101, dtype=torch.float64)
    p = 2 * ((-1) ** (j - 1) * (-2 * j**2 * z**2).exp()).sum()
    return Tested(float(statistic), float(p.clamp(0, 1)))


class Judged(NamedTuple):
    """What `judge` finds.

    verdict  calibrated, over-confident, under-confident or biased
    tests    of each quantity, of the distances (TARP) and of all entries' intervals at once
    ranks    `(n,)` of each quantity and of the distances
    p        the smallest p of the tests times their number, at most 1
    spread   of the truth's place among the draws, all entries pooled: 0 is right, above, the draws are too near together;
             between -1.1 and 2.2
    bias     the largest of a quantity's mean place, off the middle: 0 is right; between -1.7 (the draws too high) and 1.7
    off      of which quantity that is
    """

    verdict: str
    tests: dict[str, Tested]
    ranks: dict[str, Tensor]
    p: float
    spread: float
    bias: float
    off: str


TARP, ENTRIES = "distance (TARP)", "all entries"


def judge(
    draws: Tensor,
    truth: Tensor,
    quantities: Mapping[str, tuple[Tensor, Tensor]],
    references: Tensor,
    *,
    fit: str | None = None,
    level: float = 0.01,
) -> Judged:
    """Whether draws `(n, k, ...)` are as uncertain of the truths `(n, ...)` as they say, by several tests and in a word. flowhelm's own.

    Calibrated, unless a test rejects it with p < level / number of tests. Then it is in what way the entries are wrong that
    names it: biased, if a quantity is on one side by more (and by three deviations) than the entries' places among the draws
    are spread too wide or too narrow. Where neither is seen, the fit to the measurement and the distances decide.

    Args:
        quantities: few, each of the draws `(n, k)` and of the truths `(n,)`: entries, means, the log-likelihood.
        references: `(n, ...)`, of `tarp`.
        fit: which of the quantities is the log-likelihood, if one is. It is no estimate that can be biased: draws that
            are too near together fit better than the truth does.
        level: of all tests together.
    """
    n, k = draws.shape[:2]
    found = {name: ranks(of_draws, of_truth) for name, (of_draws, of_truth) in quantities.items()}
    found[TARP] = (tarp(draws, truth, references) * k).round().long()
    tests = {name: ecdf_test(rank, k) for name, rank in found.items()}
    place = (ranks(draws, truth).double()[:, None].flatten(1) + 0.5) / (k + 1)
    tests[ENTRIES] = _spread_test(place, k)
    p = min(1.0, min(test.p for test in tests.values()) * len(tests))
    off = {name: math.sqrt(12) * float(((rank.double() + 0.5) / (k + 1)).mean() - 0.5) for name, rank in found.items()}
    most = max((name for name in quantities if name != fit), key=lambda name: abs(off[name]), default="")
    bias = off.get(most, 0.0)
    # about each entry's own mean: else a shift counts as a spread
    spread = (float((place.var(0) if n > 1 else place).mean()) - _variance(k)) * math.sqrt(180)
    return Judged(_named(p < level, bias, spread, tests, off, fit, n), tests, found, p, spread, bias, most)


def _named(
    wrong: bool,
    bias: float,
    spread: float,
    tests: Mapping[str, Tested],
    off: Mapping[str, float],
    fit: str | None,
    n: int,
) -> str:
    if not wrong:
        return "calibrated"
    shifted, wide = abs(bias) * math.sqrt(n) > 3, tests[ENTRIES].p < 0.01
    if shifted and (not wide or abs(bias) > abs(spread)):
        return "biased"
    if wide:
        return "over-confident" if spread > 0 else "under-confident"
    # draws that are too near together fit better than the truth, and are nearer to anything
    signs = {name: off[name] * (-1 if name == fit else 1) for name in (TARP, fit) if name is not None}
    return "over-confident" if signs[min(signs, key=lambda name: tests[name].p)] > 0 else "under-confident"


def _variance(k: int) -> float:
    """Of a place (rank + 1/2) / (k + 1), for uniform ranks on 0 ... k."""
    return (1 - 1 / (k + 1) ** 2) / 12


def _spread_test(place: Tensor, k: int) -> Tested:
    """Are places `(n, entries)` as far from 1/2 as uniform ones? The entries of a row may depend on one another, rows do not."""
    row = (place - 0.5).square().mean(1) - _variance(k)
    z = float(row.mean()) / max(float(row.std()) / math.sqrt(len(row)), 1e-300)
    return Tested(z, math.erfc(abs(z) / math.sqrt(2)))


def _check(who: str, draws: Tensor, truth: Tensor) -> None:
    if draws.ndim < 2 or (len(draws), *draws.shape[2:]) != tuple(truth.shape):
        raise ValueError(
            f"{who}: expected draws (n, k, ...) and truths (n, ...), got {tuple(draws.shape)} and {tuple(truth.shape)}"
        )
