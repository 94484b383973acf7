"""AFDPS: approximation-free ensemble posterior sampling. Chen et al. 2025, arXiv:2506.03979 (SDE form); weights of URGE, arXiv:2605.17850.

k weighted particles per measurement follow q_t ~ p_t(x) exp(-M_t(x)) from noise to the posterior, M_1 = -log p(y | x):

    M_t(x) = t^anneal |A decode(x / alpha) - y|^2 / (2 (std^2 + (softening sigma / alpha)^2)),    U = grad M_s(x)
    m      <- x + h (v + eps score);    c = 2 eps h                           the prior's SDE: its step, its variance
    x'     <- m - c U + sqrt(c) noise
    log w  <- log w + log N(x'; m, c) - log N(x'; m - c U, c) + M_s(x) - M_t(x')                            (girsanov)
           or log w + c/2 |U|^2 - (m - x) . U + M_s(x) - M_t(x)             (AFDPS: its mean over the noise to O(h^2))
    resample the rows whose effective sample size is below threshold * k, then a few Langevin steps under q_t     (corrector)

Needs   differentiable operator; linear on pixels for girsanov=False (M's Laplacian, which all share, is left out), implicit and corrector
Cost    k (1 + corrector) evaluations per measurement and step; 1 backward through the operator (and decoder) for each
Paper   100 to 200 steps of a variance-exploding diffusion with x = clean + noise, hence x / alpha here (scaled=False: x); eps = reversal
        there, infinite at t = 0, here level sigma(t), or any other; level=0 is its ODE form, which needs the corrector. Its weights
        are exact in continuous time, URGE's for the steps as made. Its exact substep along U is implicit here, as stable. Weights
        are the method: particles without them, or the heaviest alone, are no samples; in many dimensions few are left.

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

from ..entry import Count, NonNegative, Whole, checked
from ..flow import Flow
from ..grad import dot
from ..likelihood import Annealed
from ..measure import Measurement
from ..particles import ess, prompts, resampled, survivors
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import langevin_corrected, langevin_moments
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
    implicit: bool = False,
    level: NonNegative = 2.0,
    corrector: Whole = 0,
    diffusion: Diffusion | None = None,
    threshold: NonNegative = 0.5,
    log_w: torch.Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """AFDPS: approximation-free ensemble posterior sampling. Chen et al. 2025, arXiv:2506.03979.

    Args:
        x: state `(b * particles, *shape)` at times[0], of the grid, the particles of one measurement together; `noise` has as many streams.
        particles: how many particles each measurement has.
        anneal: exponent of the likelihood's weight t^anneal; 0 keeps the weight at 1.
        softening: noise added to the likelihood, in units of that in x / alpha; steps are stable below 2 std softening / (level |A|^2).
        scaled: take the likelihood of x / alpha; if false, of x.
        girsanov: weigh the steps as made, for any operator; if false, by the continuous equation.
        implicit: take U at the end of the step, by `prox`: stable for any std.
        corrector: how many Langevin steps follow each step.
        level: level of the diffusion eps = level sigma(t).
        diffusion: eps(t) itself, finite on the grid; see `transition.diffusion`.
        threshold: effective sample size, relative to k, below which a row is resampled (not at the end); 0 never resamples.
        log_w: weights `(b, k)` of an interrupted run (info["log_w"] of its last step), to resume it exactly.

    Yields steps with info["log_w"], `(b, k)` float64, not normalised, and info["ess"], `(b,)`; see `survivors` for what is not finite.

    Raises:
        ValueError: a batch that is no multiple of k, an infinite eps, options without what they need.
    """
    prompts(len(x), particles, "afdps")
    if (implicit or corrector or not girsanov) and not (solvable(flow, y) and (girsanov or not implicit)):
        raise ValueError("afdps: girsanov=False or implicit (not both) and corrector need a linear operator on pixels")
    eps, k, total = finite(diffusion or sigma(flow.path, level), times[:-1], "afdps"), particles, len(times) - 1
    potential = Annealed(flow, y, anneal, softening, scaled)
    if log_w is None:
        x, m = potential.begun(x, times[0], noise)
        log_w = -m.double().view(-1, k)
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends, (m, u) = flow.ends(x, s), potential(x, s)
        (mean, std), z = langevin_moments(flow, x, s, t, ends, diffusion=eps), noise(x)
        u = potential.implicit(mean, s, std**2) if implicit else u
        new = mean - std**2 * u + std * z
        along = std * dot(u, z) - std**2 / 2 * dot(u, u) if girsanov else std**2 / 2 * dot(u, u) - dot(mean - x, u)
        change = along + m - potential(new if girsanov else x, t)[0]
        (x, log_w), clean = survivors(x, new, log_w, change), ends.clean
        if threshold and k > 1 and i < total:
            pick, log_w = resampled(log_w, noise, threshold)
            x, clean = x[pick], clean[pick]
        x = langevin_corrected(flow, x, t, potential, corrector, noise) if corrector else x
        yield Step(i, total, t, x, clean, {"log_w": log_w, "ess": ess(log_w)})
