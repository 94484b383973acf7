"""Gaussian moves: the next state is normal given this one. Each has `*_moments`, its mean and standard deviation.

The means and deviations serve log-probabilities (policy gradients), controls (shift of mean / std) and twisted proposals. `langevin`,
the step of an SDE, is another.
"""

from __future__ import annotations

from torch import Tensor

from ..entry import Fraction
from ..flow import Flow
from ..path import Ends, at
from ..rng import Noise
from ..shapes import State, Time
from .draw import drawn


def renoise_moments(
    flow: Flow, x: State, s: Time, t: Time, ends: Ends | None = None, *, amount: Fraction | Tensor = 1.0
) -> tuple[State, Tensor]:
    """Mean alpha_t clean + sigma_t sqrt(1 - amount) source, and std sigma_t sqrt(amount) (0-dim)."""
    ends = flow.ends(x, s) if ends is None else ends
    c = at(flow.path, t, x)
    keep = (1 - amount) ** 0.5
    return c.alpha * ends.clean + (c.sigma * keep) * ends.source, c.sigma * amount**0.5


def renoise(
    flow: Flow,
    x: State,
    s: Time,
    t: Time,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    amount: Fraction | Tensor = 1.0,
) -> State:
    """Replaces a part of the estimated source by fresh noise: amount 0 is the deterministic (DDIM) move, 1 forgets the source.

    x_t = alpha_t clean + sigma_t (sqrt(1 - amount) source + sqrt(amount) noise); DiffPIR's zeta (arXiv:2305.08995, eq. 15).
    1 evaluation, none if `ends` are given. Draws nothing when amount is 0.
    """
    mean, std = renoise_moments(flow, x, s, t, ends, amount=amount)
    return drawn(mean, std, noise, "renoise")


def ancestral_moments(flow: Flow, x: State, s: Time, t: Time, ends: Ends | None = None) -> tuple[State, Tensor]:
    """Mean and std of the DDPM posterior q(x_t | x_s, clean estimate)."""
    a, b = at(flow.path, s, x), at(flow.path, t, x)
    correlation = a.alpha * b.sigma / (a.sigma * b.alpha)  # of the noise at s and at t under the forward process
    return renoise_moments(flow, x, s, t, ends, amount=1 - correlation**2)


def ancestral(flow: Flow, x: State, s: Time, t: Time, noise: Noise | None, ends: Ends | None = None) -> State:
    """DDPM's ancestral step (Ho et al. 2020, arXiv:2006.11239, eq. 7; DDIM with eta = 1) on any path, for s < 1.

    It is `renoise` with amount 1 - rho^2, rho = alpha_s sigma_t / (sigma_s alpha_t): the correlation that the forward
    (noising) process gives the two noises. 1 evaluation, none if `ends` are given.
    """
    mean, std = ancestral_moments(flow, x, s, t, ends)
    return drawn(mean, std, noise, "ancestral")


def noised(flow: Flow, x: State, s: Time, t: Time, noise: Noise) -> State:
    """The noising process from s back to an earlier t <= s: x (alpha_t / alpha_s) + the noise that is missing there."""
    here, there = at(flow.path, s, x), at(flow.path, t, x)
    keep = there.alpha / here.alpha
    return keep * x + (there.sigma**2 - (keep * here.sigma) ** 2).clamp(min=0).sqrt() * noise(x)
