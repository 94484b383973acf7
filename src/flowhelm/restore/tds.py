"""TDS: twisted diffusion sampler. Wu et al. 2023, arXiv:2306.17775, Alg. 1; tempered, on a flow.

k weighted particles per measurement. A twist psi_s(x), what is believed of p(y | x_s), drives the prior's random move
and weighs it, so that any psi that ends in p(y | x) gives the posterior of the sampler as k grows:

    log psi <- -|A decode(clean) - y|^2 / (2 (std^2 + tempering r2)),    r2 = sigma^2 / (alpha^2 + sigma^2)
    guided  <- clean + (sigma^2 / alpha) grad log psi                    the clean estimate given y (Tweedie)
    m, c    <- mean and variance of the move from x;    m' <- its mean if clean were guided
    x'      <- m' + sqrt(c) noise
    log w   <- log w + log N(x'; m, c) - log N(x'; m', c) + log psi_t(x') - log psi_s(x)
    resample the rows whose effective sample size is below threshold * k

Needs   differentiable operator
Cost    k evaluations per measurement and step, each with 1 backward through the network from `start` on
Paper   100 ancestral steps or more, always resampled, tempering 0 (std alone) or, for inpainting, a noise like r2.
        tempering = 1 is p(y | x_s) itself for a prior N(mean, 1) and A A^T = 1. Into t = 1 the ancestral move has no noise: it
        is not twisted; nor, here, before `start`. A move is a step of a sampler with its own error in time: the posterior
        is that of the prior as so sampled.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, one, many = load("fashion"), Noise(0, rows=1), Noise(1, rows=4)
    y = simulate(operators.superres(flow.shape, factor=4), run(integrate(flow, flow.source(one), flow.times(20))).x, 0.3, one)
    final = run(restore.tds(flow, y, flow.source(many), flow.times(20), particles=4, noise=many))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import Count, Fraction, NonNegative, checked
from ..flow import Flow
from ..measure import Measurement
from ..particles import ess, prompts, resampled
from ..path import Ends, at, tilted
from ..rng import Noise
from ..shapes import State, Time, Times
from ..solve import valued
from ..step import Step
from ..transition import Moments, ancestral_moments, shifted


@checked
@torch.no_grad()
def tds(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    particles: Count = 1,
    tempering: NonNegative = 1.0,
    twist: NonNegative = 1.0,
    start: Fraction = 0.1,
    threshold: NonNegative = 0.5,
    moments: Moments = ancestral_moments,
    log_w: Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """TDS: twisted diffusion sampler. Wu et al. 2023, arXiv:2306.17775.

    Args:
        x: state `(b * particles, *shape)` at times[0], the particles of one measurement together; `noise` has as many streams.
        times: the grid.
        particles: how many particles each measurement has.
        tempering: how much of the clean estimate's uncertainty is added to the noise of y.
        twist: factor of the drift towards y; at 0 the prior moves alone and only the weights know y.
        start: time before which psi = 1, because sigma^2 / alpha magnifies the errors of a network's derivative there.
        threshold: effective sample size, relative to k, below which a row is resampled (not at the end); 0 never resamples.
        moments: mean and deviation of the move, such as `ancestral_moments` or `langevin_moments`.
        log_w: weights `(b, k)` of an interrupted run (info["log_w"] of its last step), to resume it exactly.

    Yields steps with info["log_w"], `(b, k)` float64, and info["ess"], `(b,)`. Resampling keeps the mean weight,
    so that logsumexp(log_w) - log k estimates log p(y) up to a constant.

    Raises:
        ValueError: a batch that is no multiple of k.
    """
    b, k, total, x = prompts(len(x), particles, "tds"), particles, len(times) - 1, x.detach()
    ends, psi, pull = _twisted(flow, y, x, times[0], tempering, start)
    log_w = psi.double().view(b, k) if log_w is None else log_w
    for i, (s, t) in enumerate(pairwise(times), 1):
        mean, std = moments(flow, x, s, t, ends)
        guided = moments(flow, x, s, t, tilted(flow.path, ends, pull, s))[0]
        x, ratio = shifted(mean, std, twist * (guided - mean), noise)
        before = psi
        ends, psi, pull = _twisted(flow, y, x, t, tempering, start)
        log_w = log_w + (ratio - before + psi).double().view(b, k)
        log_w = log_w.masked_fill(log_w.isnan(), -torch.inf)
        if threshold and k > 1 and i < total:
            pick, log_w = resampled(log_w, noise, threshold)
            x, ends, psi, pull = x[pick], ends.rows(pick), psi[pick], pull[pick]
        yield Step(i, total, t, x, ends.clean, {"log_w": log_w, "ess": ess(log_w)})


def _twisted(
    flow: Flow, y: Measurement, x: State, t: Time, tempering: float, start: float
) -> tuple[Ends, Tensor, Tensor]:
    """The ends, log psi `(b,)` and its gradient in x. Where sigma = 0 the state is clean and no network is asked."""
    c = at(flow.path, t, x)
    if c.sigma > 0 and t < start:
        return flow.ends(x, t), x.new_zeros(len(x)), torch.zeros_like(x)
    variance = y.std**2 + tempering * float(c.variance)
    return valued(flow, lambda picture: -y.misfit(picture) / variance, x, t)
