"""What a multi-step solver predicts, in which variable that is a polynomial, and the exact parts of a step.

    VELOCITY   velocity over t                           keep 1             gain t - s
    CLEAN_SNR  clean over lambda = log(alpha / sigma)    keep sigma+/sigma  gain alpha+ - alpha sigma+ / sigma   DPM-Solver++, UniPC
    CLEAN_LOG  clean over log(1 + alpha / sigma), which is -log sigma on the linear path, regular at the source  RES
    SOURCE_*   source over lambda, sigma / alpha or t    keep alpha+/alpha  gain sigma+ - sigma alpha+ / alpha   DEIS

For a constant prediction x+ = keep x + gain p is exact, whatever the variable: the DDIM step, which needs no logarithm. `moments` are
what a polynomial takes besides: the averages of its powers under the kernel of the variable. All are numbers: nothing waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..path import Ends, Path, velocity

FLOOR = 1e-6
"""Of alpha where lambda = log(alpha / sigma) is a place: it is -infinity at the source. Of places only; diffusers' value."""


class Coeffs(NamedTuple):
    """A path's coefficients at a time, as numbers."""

    alpha: float
    sigma: float
    d_alpha: float
    d_sigma: float


class Variable(NamedTuple):
    """A prediction, and the variable that it is a polynomial in.

    Attributes:
        read: (path, ends, t) -> the prediction.
        place: (coefficients at t, t) -> u.
        factors: (coefficients at s and at t, s, t) -> keep, gain.
        moments: (s, t, path, h, count) -> averages of ((u - u_0) / h)^k under the kernel, k = 1 ... count.
    """

    read: Callable[[Path, Ends, Tensor], Tensor]
    place: Callable[[Coeffs, float], float]
    factors: Callable[[Coeffs, Coeffs, float, float], tuple[float, float]]
    moments: Callable[[float, float, Path, float, int], list[float]]


def exponential(h: float, count: int) -> list[float]:
    """Averages of theta^k, k = 1 ... count, over [0, 1] with the density proportional to e^(h theta)."""
    if abs(h) < 1:  # the recursion below would cancel
        terms = [(-h) ** n for n in range(24)]  # of e^(-h (1 - theta)), integrated with theta^k
        j = [
            sum(c * math.factorial(k) / math.factorial(n + k + 1) for n, c in enumerate(terms))
            for k in range(count + 1)
        ]
    else:
        j = [-math.expm1(-h) / h]
        for k in range(1, count + 1):
            j.append((1 - k * j[-1]) / h)
    return [each / j[0] for each in j[1:]]


def _flat(s: float, t: float, path: Path, h: float, count: int) -> list[float]:
    return [1 / (k + 1) for k in range(1, count + 1)]


def _source_over_time(s: float, t: float, path: Path, h: float, count: int) -> list[float]:
    """The kernel is d(sigma / alpha) over t: Gauss-Legendre quadrature in t."""
    theta, mass = legendre()
    a = path(s + (t - s) * theta)
    kernel = mass * (a.d_sigma * a.alpha - a.sigma * a.d_alpha) / a.alpha**2
    return [float((kernel * theta**k).sum() / kernel.sum()) for k in range(1, count + 1)]


@cache
def legendre(points: int = 16) -> tuple[Tensor, Tensor]:
    """Nodes and masses on [0, 1], by the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, points, dtype=torch.float64)
    beta = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (values + 1) / 2, vectors[0] ** 2


def clean_factors(a: Coeffs, b: Coeffs, s: float, t: float) -> tuple[float, float]:
    keep = b.sigma / a.sigma
    return keep, b.alpha - a.alpha * keep


def _source(a: Coeffs, b: Coeffs, s: float, t: float) -> tuple[float, float]:
    if a.alpha == 0:
        return math.inf, 0.0
    keep = b.alpha / a.alpha
    return keep, b.sigma - a.sigma * keep


def _lambda(a: Coeffs, t: float) -> float:
    return math.inf if a.sigma == 0 else math.log(max(a.alpha, FLOOR) / a.sigma)


VELOCITY = Variable(velocity, lambda a, t: t, lambda a, b, s, t: (1.0, t - s), _flat)
CLEAN_SNR = Variable(lambda p, e, t: e.clean, _lambda, clean_factors, lambda s, t, p, h, k: exponential(h, k))
CLEAN_LOG = CLEAN_SNR._replace(place=lambda a, t: math.inf if a.sigma == 0 else math.log1p(a.alpha / a.sigma))
SOURCE_SNR = Variable(lambda p, e, t: e.source, _lambda, _source, lambda s, t, p, h, k: exponential(-h, k))
SOURCE_RATIO = SOURCE_SNR._replace(place=lambda a, t: math.inf if a.alpha == 0 else a.sigma / a.alpha, moments=_flat)
SOURCE_TIME = SOURCE_SNR._replace(place=lambda a, t: t, moments=_source_over_time)
