"""The step of an SDE that keeps every marginal, by Euler and Maruyama."""

from __future__ import annotations

import torch
from torch import Tensor

from ..entry import NonNegative
from ..flow import Flow
from ..likelihood import Annealed
from ..path import Ends, at, score, velocity
from ..rng import Noise
from ..shapes import State, Time
from .diffusion import Diffusion, reversal
from .draw import drawn


def langevin_moments(
    flow: Flow,
    x: State,
    s: Time,
    t: Time,
    ends: Ends | None = None,
    *,
    eta: NonNegative = 1.0,
    diffusion: Diffusion | None = None,
) -> tuple[State, Tensor]:
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
    x: State,
    s: Time,
    t: Time,
    noise: Noise | None,
    ends: Ends | None = None,
    *,
    eta: NonNegative = 1.0,
    diffusion: Diffusion | None = None,
) -> State:
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
    return drawn(mean, std, noise, "langevin")


def langevin_corrected(flow: Flow, x: State, t: Time, energy: Annealed, steps: int, noise: Noise) -> State:
    """`steps` of unadjusted Langevin dynamics under p_t(x) exp(-M_t(x)), which leave that law but for their length.

        x <- x + h (score - grad M) + sqrt(2 h) noise,    h = sigma^2 / 5 / (1 + sigma^2 |Hessian of M|)

    Each 1 evaluation. At t = 1, where the score is infinite, none is made.
    """
    sigma2 = at(flow.path, t, x).sigma ** 2
    if not sigma2:
        return x
    h = sigma2 / 5 / (1 + sigma2 * energy.stiffness(x, t))
    for _ in range(steps):
        x = x + h * (score(flow.path, flow.ends(x, t), t) - energy(x, t)[1]) + (2 * h).sqrt() * noise(x)
    return x


def _diffusion(flow: Flow, s: Time, eta: float, diffusion: Diffusion | None) -> Tensor:
    if diffusion is None and eta == 0:
        return torch.zeros_like(s, dtype=torch.float64)
    return (diffusion or reversal(flow.path, eta))(s.double())
