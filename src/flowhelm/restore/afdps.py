"""AFDPS: approximation-free ensemble posterior sampling. Chen et al. 2025, arXiv:2506.03979 (SDE form); weights of URGE, arXiv:2605.17850.

k weighted particles per measurement follow q_t ~ p_t(x) exp(-M_t(x)) from noise to the posterior, M_1 = -log p(y | x):

    M_t(x) = t^anneal |A decode(x / alpha) - y|^2 / (2 (std^2 + (softening sigma / alpha)^2)),    U = grad M_s(x)
    m      <- x + h (v + eps score);    c = 2 eps h                           the prior's SDE: its step, its variance
    x'     <- m - c U + sqrt(c) noise
    log w  <- log w + log N(x'; m, c) - log N(x'; m - c U, c) + M_s(x) - M_t(x')                            (girsanov)
           or log w + c/2 |U|^2 - (m - x) . U + M_s(x) - M_t(x)             (AFDPS: its mean over the noise to O(h^2))
    resample the rows whose effective sample size is below threshold * k

Needs   differentiable operator; linear on pixels for girsanov=False, where the Laplacian of M is left out: it is the
        same for all particles, and normalised weights do not see it
Cost    k evaluations per measurement and step, forward only; 1 backward through the operator (and decoder)
Paper   100 to 200 steps of a variance-exploding diffusion with x = clean + noise, hence x / alpha here (scaled=False: x);
        eps = reversal there, infinite at t = 0, here level sigma(t), or any other. Without resampling the paper's
        weights are exact in continuous time; those of URGE for the steps as made. Weights are the method: particles without
        them, or the heaviest one alone, are not samples of the posterior, and one particle is a guided run only.
        Few particles in many dimensions lose their weights to one; `softening` slows that, it changes no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..control import solvable
from ..flow import Flow
from ..grad import dot, per_row, value_and_grad
from ..measure import Measurement
from ..particles import ess, prompts, resampled
from ..path import at
from ..rng import Noise
from ..step import Step
from ..transition import langevin_moments
from ..transition.diffusion import Diffusion, sigma


@torch.no_grad()
def afdps(
    flow: Flow,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    particles: int = 1,
    anneal: float = 1.0,
    softening: float = 1.0,
    scaled: bool = True,
    girsanov: bool = True,
    level: float = 2.0,
    diffusion: Diffusion | None = None,
    threshold: float = 0.5,
    log_w: Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Args:
    x: state `(b * particles, *shape)` at times[0], the particles of one measurement together; `noise` has as many streams.
    times: the grid.
    particles: k per measurement.
    anneal: exponent >= 0 of the weight t^anneal of the likelihood; 0 for 1 all along.
    softening: noise added to the likelihood, as a multiple of that in x / alpha; 0 for the plain one. The drift is stable
        for steps below about 2 std softening / (level |A|^2): 20 of them for std 0.05.
    scaled: likelihood of x / alpha; else of x.
    girsanov: weights of the steps as made, for any operator; else those of the continuous equation.
    level: eps = level sigma(t). diffusion: eps(t) itself, finite on the grid; see `transition.diffusion`.
    threshold: of the effective sample size, relative to k, below which a row is resampled (not at the end); 0 for never.
    log_w: weights `(b, k)` of an interrupted run (info["log_w"] of its last step), to resume it exactly.

    Yields steps with info["log_w"], `(b, k)` float64, not normalised, and info["ess"], `(b,)`. A particle that is not
    finite has weight 0 and stays where it was; if none of a row has weight, their state is NaN.

    Raises:
        ValueError: a batch that is no multiple of k, a non-linear operator or a decoder with girsanov=False, an eps that
            is not finite.
    """
    prompts(len(x), particles, "afdps")
    if not girsanov and not solvable(flow, y):
        raise ValueError("afdps: expected a linear measurement of pixels for girsanov=False; set girsanov=True")
    eps, k, total = diffusion or sigma(flow.path, level), particles, len(times) - 1

    def potential(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """M_t `(b * k,)` and its gradient; 0 where nothing of the picture is left in x."""
        c = at(flow.path, t, x)
        if c.alpha == 0 and (scaled or softening):
            return x.new_zeros(len(x)), torch.zeros_like(x)
        weight = t**anneal / (y.std**2 + (softening * c.sigma / c.alpha) ** 2 if softening else y.std**2)
        unit = 1 / c.alpha if scaled else 1.0
        return value_and_grad(lambda x: weight * y.misfit(flow.decode(unit * x)), x)

    if log_w is None:
        m = potential(x, times[0])[0]
        if at(flow.path, times[0], x).alpha == 0 and m.any() and solvable(flow, y):  # q_0 is a normal law: exactly
            target = y.y.repeat_interleave(len(x) // len(y.y), 0)
            x, m = Measurement(target + y.std * noise(target), y.operator, y.std).prox(x, 1.0), torch.zeros_like(m)
        log_w = -m.double().view(-1, k)
    for i, (s, t) in enumerate(pairwise(times), 1):
        if not eps(s.double()).isfinite().all():
            raise ValueError(
                f"afdps: expected a finite diffusion, got infinity at t = {float(s):g}; use diffusion.within"
            )
        ends, (m, u) = flow.ends(x, s), potential(x, s)
        mean, std = langevin_moments(flow, x, s, t, ends, diffusion=eps)
        z = noise(x)
        new = mean - std**2 * u + std * z
        if girsanov:
            change = std * dot(u, z) - std**2 / 2 * dot(u, u) + m - potential(new, t)[0]
        else:
            change = std**2 / 2 * dot(u, u) - dot(mean - x, u) + m - potential(x, t)[0]
        bad = ~(new.flatten(1).isfinite().all(1) & change.isfinite())
        log_w = (log_w + change.double().view(-1, k)).masked_fill(bad.view(-1, k), -torch.inf)
        lost = log_w.isneginf().all(1).repeat_interleave(k)  # told by what runs the method: the state is not finite
        x = torch.where(per_row(bad, x) > 0, x, new) + per_row(torch.where(lost, torch.nan, 0.0), x)
        x, clean = x.detach(), ends.clean
        if threshold and k > 1 and i < total:
            pick, log_w = resampled(log_w, noise, threshold)
            x, clean = x[pick], clean[pick]
        yield Step(i, total, t, x, clean, {"log_w": log_w, "ess": ess(log_w)})
