"""A mean and its 95 % interval, for every table."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

_SMALL = {1: 12.706, 2: 4.303, 3: 3.182}


class Mean(NamedTuple):
    """A mean over pictures, seeds or laws, and half of its 95 % interval; NaN where there are none, or one, or one of them is NaN."""

    value: float
    half: float

    def shown(self, digits: int) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.{digits}f}" + ("" if math.isnan(self.half) else f" ± {self.half:.{digits}f}")


def interval(values: Iterable[float]) -> Mean:
    """The mean, and half of its interval by Student's t."""
    values = list(values)
    if not values or any(map(math.isnan, values)):
        return Mean(math.nan, math.nan)
    if len(values) == 1:
        return Mean(values[0], math.nan)
    return Mean(fmean(values), student(len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def correlation(r: float, count: int) -> tuple[float, float]:
    """Both ends of the 95 % interval of a correlation of `count` pairs, by Fisher's transform (1921); of fewer than four, all there is."""
    if count < 4:
        return -1.0, 1.0
    middle = math.atanh(max(min(r, 1 - 1e-12), 1e-12 - 1))
    half = NormalDist().inv_cdf(0.975) / math.sqrt(count - 3)
    return math.tanh(middle - half), math.tanh(middle + half)


def bootstrap(figure: Callable[[list[int]], float], count: int, *, draws: int = 1000) -> tuple[float, float]:
    """Both ends of the 95 % interval of a figure of `count` rows, which is no mean: quantiles of it over rows drawn again (Efron 1979).

    Args:
        figure: of the rows whose numbers it is given, `count` of them, some twice; must not need different rows.
    """
    chance = random.Random(0)
    found = sorted(figure(chance.choices(range(count), k=count)) for _ in range(draws))
    return found[int(0.025 * draws)], found[math.ceil(0.975 * draws) - 1]


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: expanded around the normal one (Abramowitz & Stegun 26.7.5), to 0.2 %."""
    if freedom in _SMALL:
        return _SMALL[freedom]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**i for i, term in enumerate(terms, 1))
