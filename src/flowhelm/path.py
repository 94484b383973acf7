"""Paths: how source and clean are mixed at time t, and every change of basis there is.

x_t = sigma(t) source + alpha(t) clean,  t in [0, 1],  0 = source, 1 = clean.

A path is a function of time that returns four coefficients. A prediction of any kind (velocity, clean,
source) is turned into `Ends(source, clean)` once; velocity and score are read off the ends.
Source: Lipman et al. 2023 (arXiv:2210.02747); Albergo et al. 2023 (arXiv:2303.08797) for general alpha, sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .shapes import State, Time


class Coeffs(NamedTuple):
    """alpha, sigma and their derivatives in t, each shaped as t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def kappa(self) -> Tensor:
        """(alpha'/alpha) sigma^2 - sigma' sigma: what turns a score into a velocity; (1-t)/t on the linear path, infinite at 0."""
        return self.d_alpha / self.alpha * self.sigma**2 - self.d_sigma * self.sigma

    @property
    def variance(self) -> Tensor:
        """sigma^2 / (alpha^2 + sigma^2): the variance of a clean state given x_t, for the prior N(mean, I)."""
        return self.sigma**2 / (self.alpha**2 + self.sigma**2)

    @property
    def deviation(self) -> Tensor:
        """The root of `variance`: sigma / sqrt(alpha^2 + sigma^2)."""
        return self.sigma / (self.alpha**2 + self.sigma**2).sqrt()


class Ends(NamedTuple):
    """E[source | x_t] and E[clean | x_t], each shaped as the state `(b, ...)`. flowhelm's own."""

    source: State
    clean: State

    def rows(self, index: Tensor) -> Ends:
        """Those of some rows `(n,)`, in that order."""
        return Ends(self.source[index], self.clean[index])

    def detach(self) -> Ends:
        return Ends(self.source.detach(), self.clean.detach())


Path = Callable[[Time], Coeffs]


def linear(t: Time) -> Coeffs:
    """alpha = t, sigma = 1 - t: rectified flow, optimal-transport flow matching."""
    one = torch.ones_like(t)
    return Coeffs(t, 1 - t, one, -one)


def trig(t: Time) -> Coeffs:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): variance preserving, TrigFlow."""
    a = t * (math.pi / 2)
    # sin of the complement instead of cos(a): exactly 0 at t = 1
    alpha, sigma = torch.sin(a), torch.sin((1 - t) * (math.pi / 2))
    return Coeffs(alpha, sigma, sigma * (math.pi / 2), alpha * (-math.pi / 2))


@dataclass(frozen=True)
class VP:
    """The variance-preserving diffusion of Song et al. 2021 (arXiv:2011.13456, eq. 33), run from noise to data.

    alpha = exp(-1/2 int_0^(1-t) beta), beta rising linearly from `beta_min` to `beta_max`; sigma^2 = 1 - alpha^2.
    At t = 0 a little of the picture is left (alpha = 0.0066 by default). At t = 1 the rate of sigma is infinite,
    so the velocity exists for t < 1 only.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Time) -> Coeffs:
        u = 1 - t
        log_alpha = -0.5 * (self.beta_min * u + 0.5 * (self.beta_max - self.beta_min) * u**2)
        rate = 0.5 * (self.beta_min + (self.beta_max - self.beta_min) * u)  # d log alpha / dt
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        return Coeffs(alpha, sigma, rate * alpha, -rate * alpha**2 / sigma)

    def time_at_snr(self, ratio: Tensor) -> Tensor:
        """The time at which alpha / sigma equals `ratio` > 0; below 0 for what is noisier than t = 0."""
        spent = torch.log1p(ratio**-2).clamp(max=1e6)  # int beta = log(1 + 1 / ratio^2), a quadratic in 1 - t
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * spent).sqrt()
        return 1 - 2 * spent / (self.beta_min + root)


def at(path: Path, t: Time, like: Tensor) -> Coeffs:
    """The coefficients ready to multiply `like`.

    Args:
        t: 0-dim (then the coefficients stay 0-dim, on the CPU and in float64: they neither promote float32 nor
            wait for a device), or `(b,)` (then they are cast to `like` and shaped `(b, 1, ...)`).
    """
    if t.ndim == 0:
        return path(t)
    return Coeffs(*(c.to(like).reshape(-1, *(1,) * (like.ndim - 1)) for c in path(t.double())))


def mix(path: Path, source: State, clean: State, t: Time) -> State:
    """x_t = sigma source + alpha clean."""
    c = at(path, t, source)
    return c.sigma * source + c.alpha * clean


def velocity(path: Path, ends: Ends, t: Time) -> State:
    """v = sigma' source + alpha' clean."""
    c = at(path, t, ends.clean)
    return c.d_sigma * ends.source + c.d_alpha * ends.clean


def score(path: Path, ends: Ends, t: Time) -> State:
    """grad log p_t(x) = -E[source | x] / sigma; for a standard normal source independent of clean, and t < 1."""
    return -ends.source / at(path, t, ends.clean).sigma


def tilted(path: Path, ends: Ends, pull: Tensor, t: Time) -> Ends:
    """The ends of the law p_t(x) psi(x), for pull = grad log psi(x) shaped as the state; by Tweedie's formula.

    clean + sigma^2 / alpha pull, source - sigma pull: together the same state. For a standard normal source. With psi =
    E[likelihood or exp(reward) of clean | x_t = x] that is the prior of the clean states so weighted, noised. Where alpha = 0
    the state tells nothing of the clean end, and the ends are left as they are.
    """
    c = at(path, t, ends.clean)
    known = c.alpha > 0
    return Ends(
        ends.source - torch.where(known, c.sigma, 0) * pull,
        ends.clean + torch.where(known, c.sigma**2 / c.alpha, 0) * pull,
    )


def ends_from_velocity(path: Path, v: State, x: State, t: Time) -> Ends:
    """Solves x = sigma s + alpha c, v = sigma' s + alpha' c. Linear path: c = x + (1-t) v, s = x - t v."""
    a = at(path, t, x)
    if path is linear:  # the same numbers for half the passes over the state
        return Ends(x - a.alpha * v, x + a.sigma * v)
    det = a.d_alpha * a.sigma - a.d_sigma * a.alpha
    return Ends((a.d_alpha * x - a.alpha * v) / det, (a.sigma * v - a.d_sigma * x) / det)


def ends_from_clean(path: Path, clean: State, x: State, t: Time) -> Ends:
    """source = (x - alpha clean) / sigma. Where sigma = 0 the state tells nothing of the source: its mean, 0, is given."""
    a = at(path, t, x)
    source = (x - a.alpha * clean) / torch.where(a.sigma > 0, a.sigma, 1)
    return Ends(torch.where(a.sigma.to(x) > 0, source, 0), clean)


def ends_from_source(path: Path, source: State, x: State, t: Time) -> Ends:
    """clean = (x - sigma source) / alpha.

    Raises:
        ValueError: at a 0-dim time where alpha = 0: a predicted source tells nothing of the clean end there.
    """
    a = at(path, t, x)
    if t.ndim == 0 and a.alpha == 0:
        raise ValueError(
            f"ends_from_source: expected alpha > 0, got alpha = 0 at t = {float(t):g}; start a little later"
        )
    return Ends(source, (x - a.sigma * source) / a.alpha)


def time_at_snr(path: Path, ratio: Tensor) -> Tensor:
    """The time at which alpha / sigma equals `ratio` (any shape, >= 0, inf allowed), in float64.

    In closed form for `linear`, `trig` and `VP`, by bisection for other paths. Ratios outside the path's range give its nearer end,
    0 or 1. On the CPU, shaped as `ratio`.
    """
    ratio = ratio.detach().double().cpu()
    if path is linear:
        time = ratio / (1 + ratio)
    elif path is trig:
        time = torch.atan(ratio) * (2 / math.pi)
    elif isinstance(path, VP):
        time = path.time_at_snr(ratio).clamp(0, 1)
    else:
        time = _bisected(path, ratio)
    return torch.where(ratio.isinf(), 1.0, torch.where(ratio <= 0, 0.0, time))


def _bisected(path: Path, ratio: Tensor) -> Tensor:
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(60):
        middle = (low + high) / 2
        c = path(middle)
        later = c.alpha < ratio * c.sigma
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2
