"""Gaussian moves: the next state is normal given this one. Each has `*_moments`, its mean and standard deviation.

The means and deviations serve log-probabilities (policy gradients), controls (shift of mean / std) and twisted proposals.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..flow import Flow
from ..grad import dot
from ..path import Ends, at, score, velocity
from ..rng import Noise
from .diffusion import Diffusion, reversal

Moments = Callable[[Flow, Tensor, Tensor, Tensor, Ends | None], tuple[Tensor, Tensor]]
"""(flow, x, s, t, ends) -> mean, shaped as x, and standard deviation, 0-dim, of a random move."""


def renoise_moments(
    flow: Flow, x: Tensor, s: Tensor, t: Tensor, ends: Ends | None = None, *, amount: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean alpha_t clean + sigma_t sqrt(1 - amount) source, and std sigma_t sqrt(amount) (0-dim)."""
    ends = flow.ends(x, s) if ends is None else ends
    c = at(flow.path, t, x)
    keep = (1 - amount) ** 0.5
    return c.alpha * ends.clean + (c.sigma * keep) * ends.source, c.sigma * amount**0.5


def renoise(
    flow: Flow,
    x: Tensor,
    s: Tensor,
    t: Tensor,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    amount: float | Tensor = 1.0,
) -> Tensor:
    """Replaces a part of the estimated source by fresh noise: amount 0 is the deterministic (DDIM) move, 1 forgets the source.

    x_t = alpha_t clean + sigma_t (sqrt(1 - amount) source + sqrt(amount) noise); DiffPIR's zeta (arXiv:2305.08995, eq. 15).
    1 evaluation, none if `ends` are given. Draws nothing when amount is 0.
    """
    mean, std = renoise_moments(flow, x, s, t, ends, amount=amount)
    return _draw(mean, std, noise, "renoise")


def ancestral_moments(flow: Flow, x: Tensor, s: Tensor, t: Tensor, ends: Ends | None = None) -> tuple[Tensor, Tensor]:
    """Mean and std of the DDPM posterior q(x_t | x_s, clean estimate)."""
    a, b = at(flow.path, s, x), at(flow.path, t, x)
    correlation = a.alpha * b.sigma / (a.sigma * b.alpha)  # of the noise at s and at t under the forward process
    return renoise_moments(flow, x, s, t, ends, amount=1 - correlation**2)


def ancestral(flow: Flow, x: Tensor, s: Tensor, t: Tensor, noise: Noise | None, ends: Ends | None = None) -> Tensor:
    """DDPM's ancestral step (Ho et al. 2020, arXiv:2006.11239, eq. 7; DDIM with eta = 1) on any path, for s < 1.

    It is `renoise` with amount 1 - rho^2, rho = alpha_s sigma_t / (sigma_s alpha_t): the correlation that the forward
    (noising) process gives the two noises. 1 evaluation, none if `ends` are given.
    """
    mean, std = ancestral_moments(flow, x, s, t, ends)
    return _draw(mean, std, noise, "ancestral")


def langevin_moments(
    flow: Flow,
    x: Tensor,
    s: Tensor,
    t: Tensor,
    ends: Ends | None = None,
    *,
    eta: float = 1.0,
    diffusion: Diffusion | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean x + h (v + eps score) and std sqrt(2 eps h), with eps = eta kappa(s) or diffusion(s); see `langevin`."""
    ends = flow.ends(x, s) if ends is None else ends
    mean = x + (t - s) * velocity(flow.path, ends, s)
    eps = _diffusion(flow, s, eta, diffusion)
    if not eps.any():
        return mean, 0 * eps
    # kappa * score = -(alpha'/alpha * sigma - sigma') source, and h kappa <= h (alpha'/alpha) sigma^2: kappa is infinite
    # where alpha = 0 (a full refresh there is exact, and `renoise` does it), so the grid of an SDE starts a little later
    mean = mean + (t - s) * eps * score(flow.path, ends, s)
    return mean, (2 * eps * (t - s)).sqrt()


def langevin(
    flow: Flow,
    x: Tensor,
    s: Tensor,
    t: Tensor,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    eta: float = 1.0,
    diffusion: Diffusion | None = None,
) -> Tensor:
    """One Euler-Maruyama step of dx = (v + eps score) dt + sqrt(2 eps) dW, which keeps every marginal for any eps >= 0.

    eps = eta kappa with kappa = (alpha'/alpha) sigma^2 - sigma' sigma (linear path: (1-t)/t): eta = 0 is the Euler
    step of the ODE, eta = 1 the time reversal of the noising process ("memoryless"; Domingo-Enrich et al. 2025,
    arXiv:2409.08861, eq. 15), eta = 0.245 the default of Flow-GRPO. For 0 < s < 1: kappa is infinite where alpha = 0.
    1 evaluation, none if `ends` are given.

    Args:
        diffusion: eps(t) itself, instead of eta kappa (eta is then not read); see `transition.diffusion`. Finite ones
            start at t = 0.

    Raises:
        ValueError: at a time where eps is infinite, as kappa is where alpha = 0.
    """
    if not _diffusion(flow, s, eta, diffusion).isfinite().all():
        raise ValueError(
            f"langevin: expected a start where the diffusion is finite (alpha > 0), got t = {float(s):g}; make the first "
            "step with renoise or ancestral, or bound it with diffusion.within"
        )
    mean, std = langevin_moments(flow, x, s, t, ends, eta=eta, diffusion=diffusion)
    return _draw(mean, std, noise, "langevin")


def shifted(mean: Tensor, std: Tensor, shift: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """x' ~ N(mean + shift, std^2) and its log-ratio log N(x'; mean, std^2) - log N(x'; mean + shift, std^2), `(b,)`.

    What a proposal costs in weight. Without noise (std 0) there is no shift: nothing could pay for it.
    """
    if not std.any():
        return mean, mean.new_zeros(len(mean))
    z = _normal(mean, noise, "shifted")
    # in terms of z, not of x' - mean - shift: that is a small difference of large numbers
    return mean + shift + std * z, -dot(shift, z) / std - dot(shift, shift) / (2 * std**2)


def noised(flow: Flow, x: Tensor, s: Tensor, t: Tensor, noise: Noise) -> Tensor:
    """The noising process from s back to an earlier t <= s: x (alpha_t / alpha_s) + the noise that is missing there."""
    here, there = at(flow.path, s, x), at(flow.path, t, x)
    keep = there.alpha / here.alpha
    return keep * x + (there.sigma**2 - (keep * here.sigma) ** 2).clamp(min=0).sqrt() * noise(x)


def _diffusion(flow: Flow, s: Tensor, eta: float, diffusion: Diffusion | None) -> Tensor:
    if diffusion is None and eta == 0:
        return torch.zeros_like(s, dtype=torch.float64)
    return (diffusion or reversal(flow.path, eta))(s.double())


def _draw(mean: Tensor, std: Tensor, noise: Noise | None, who: str) -> Tensor:
    return mean + std * _normal(mean, noise, who) if std.any() else mean


def _normal(like: Tensor, noise: Noise | None, who: str) -> Tensor:
    if noise is None:
        raise ValueError(
            f"{who}: expected a Noise (one stream per row) for a random move, got None; pass noise=Noise(seed, rows=len(x))"
        )
    return noise(like)
