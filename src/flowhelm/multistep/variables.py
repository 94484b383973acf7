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

from ..path import Ends, Path
from .weights import exponential, legendre

FLOOR = 1e-6
"""Of alpha where lambda = log(alpha / sigma) is a place: it is -infinity at the source. Of places only; diffusers' value."""


class Coeffs(NamedTuple):
    """A time and a path's coefficients there, as numbers."""

    alpha: float
    sigma: float
    d_alpha: float
    d_sigma: float
    t: float


class Variable(NamedTuple):
    """A prediction, and the variable that it is a polynomial in.

    Attributes:
        read: (coefficients at t, ends) -> the prediction.
        place: (coefficients at t) -> u.
        factors: (coefficients at s and at t) -> keep, gain.
        moments: (coefficients at s and at t, path, h, count) -> averages of ((u - u_0) / h)^k under the kernel, k = 1 ... count.
    """

    read: Callable[[Coeffs, Ends], Tensor]
    place: Callable[[Coeffs], float]
    factors: Callable[[Coeffs, Coeffs], tuple[float, float]]
    moments: Callable[[Coeffs, Coeffs, Path, float, int], list[float]]


def _flat(a: Coeffs, b: Coeffs, path: Path, h: float, count: int) -> list[float]:
    return [1 / (k + 1) for k in range(1, count + 1)]


def _source_over_time(a: Coeffs, b: Coeffs, path: Path, h: float, count: int) -> list[float]:
    """The kernel is d(sigma / alpha) over t: Gauss-Legendre quadrature in t."""
    theta, mass = _legendre()
    c = path(a.t + (b.t - a.t) * theta)
    kernel = mass * (c.d_sigma * c.alpha - c.sigma * c.d_alpha) / c.alpha**2
    return [float((kernel * theta**k).sum() / kernel.sum()) for k in range(1, count + 1)]


@cache
def _legendre() -> Tensor:
    return torch.tensor(legendre(), dtype=torch.float64).T


def clean_factors(a: Coeffs, b: Coeffs) -> tuple[float, float]:
    keep = b.sigma / a.sigma
    return keep, b.alpha - a.alpha * keep


def _source(a: Coeffs, b: Coeffs) -> tuple[float, float]:
    if a.alpha == 0:
        return math.inf, 0.0
    keep = b.alpha / a.alpha
    return keep, b.sigma - a.sigma * keep


def _lambda(a: Coeffs) -> float:
    return math.inf if a.sigma == 0 else math.log(max(a.alpha, FLOOR) / a.sigma)


def _velocity(a: Coeffs, e: Ends) -> Tensor:
    return torch.add(e.clean if a.d_alpha == 1 else a.d_alpha * e.clean, e.source, alpha=a.d_sigma)


VELOCITY = Variable(_velocity, lambda a: a.t, lambda a, b: (1.0, b.t - a.t), _flat)
CLEAN_SNR = Variable(lambda a, e: e.clean, _lambda, clean_factors, lambda a, b, p, h, k: exponential(h, k))
CLEAN_LOG = CLEAN_SNR._replace(place=lambda a: math.inf if a.sigma == 0 else math.log1p(a.alpha / a.sigma))
SOURCE_SNR = Variable(lambda a, e: e.source, _lambda, _source, lambda a, b, p, h, k: exponential(-h, k))
SOURCE_RATIO = SOURCE_SNR._replace(place=lambda a: math.inf if a.alpha == 0 else a.sigma / a.alpha, moments=_flat)
SOURCE_TIME = SOURCE_SNR._replace(place=lambda a: a.t, moments=_source_over_time)
