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

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, one, many = load("fashion"), Noise(0, rows=1), Noise(1, rows=4)
    y = simulate(operators.denoise(flow.shape), run(integrate(flow, flow.source(one), flow.times(20))).x, 0.3, one)
    final = run(restore.afdps(flow, y, flow.source(many), flow.times(20), particles=4, noise=many))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import dot
from ..likelihood import Annealed
from ..measure import Measurement
from ..particles import ess, prompts, resampled, survivors
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import langevin_moments
from ..transition.diffusion import Diffusion, finite, sigma


@checked
@torch.no_grad()
def afdps(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    particles: Count = 1,
    anneal: NonNegative = 1.0,
    softening: NonNegative = 1.0,
    scaled: bool = True,
    girsanov: bool = True,
    level: NonNegative = 2.0,
    diffusion: Diffusion | None = None,
    threshold: NonNegative = 0.5,
    log_w: torch.Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """AFDPS: approximation-free ensemble posterior sampling. Chen et al. 2025, arXiv:2506.03979.

    Args:
        x: state `(b * particles, *shape)` at times[0], the particles of one measurement together; `noise` has as many streams.
        times: the grid.
        particles: how many particles each measurement has.
        anneal: exponent of the likelihood's weight t^anneal; 0 keeps the weight at 1.
        softening: noise added to the likelihood, in units of that in x / alpha; steps are stable below 2 std softening / (level |A|^2).
        scaled: take the likelihood of x / alpha; if false, of x.
        girsanov: weigh the steps as made, for any operator; if false, by the continuous equation.
        level: level of the diffusion eps = level sigma(t).
        diffusion: eps(t) itself, finite on the grid; see `transition.diffusion`.
        threshold: effective sample size, relative to k, below which a row is resampled (not at the end); 0 never resamples.
        log_w: weights `(b, k)` of an interrupted run (info["log_w"] of its last step), to resume it exactly.

    Yields steps with info["log_w"], `(b, k)` float64, not normalised, and info["ess"], `(b,)`; see `survivors` for what is not finite.

    Raises:
        ValueError: a batch that is no multiple of k, a non-linear operator or a decoder with girsanov=False, an infinite eps.
    """
    prompts(len(x), particles, "afdps")
    if not girsanov and not solvable(flow, y):
        raise ValueError("afdps: expected a linear measurement of pixels for girsanov=False; set girsanov=True")
    eps, k, total = finite(diffusion or sigma(flow.path, level), times[:-1], "afdps"), particles, len(times) - 1
    potential = Annealed(flow, y, anneal, softening, scaled)
    if log_w is None:
        x, m = potential.begun(x, times[0], noise)
        log_w = -m.double().view(-1, k)
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends, (m, u) = flow.ends(x, s), potential(x, s)
        mean, std = langevin_moments(flow, x, s, t, ends, diffusion=eps)
        z = noise(x)
        new = mean - std**2 * u + std * z
        if girsanov:
            change = std * dot(u, z) - std**2 / 2 * dot(u, u) + m - potential(new, t)[0]
        else:
            change = std**2 / 2 * dot(u, u) - dot(mean - x, u) + m - potential(x, t)[0]
        (x, log_w), clean = survivors(x, new, log_w, change), ends.clean
        if threshold and k > 1 and i < total:
            pick, log_w = resampled(log_w, noise, threshold)
            x, clean = x[pick], clean[pick]
        yield Step(i, total, t, x, clean, {"log_w": log_w, "ess": ess(log_w)})
