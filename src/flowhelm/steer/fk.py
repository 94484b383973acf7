"""FK: Feynman-Kac steering. Singhal et al. 2025, arXiv:2501.06848; twisted: TDS (arXiv:2306.17775), tempered: DAS (arXiv:2501.05803).

k weighted particles per prompt follow the prior's random move and are weighed by their clean estimates. As k grows their
law is p(clean) exp(strength * reward), p the sampler's; their mean weight is unbiased for its normalisation Z with any k:

    x      <- the move, or a twisted one at its price in log w                              `flowhelm.twist`
    log G  <- of level_t * strength * reward(decode(clean)),    clean = E[clean | x_t]      `particles.Weights`
    log w  <- log w + (new - old) log G, in full at t = 1;  resample prompts of an effective sample size below threshold * k

Needs   any reward; a differentiable one for a proposal
Budget  buys `particles`; it is counted, not bounded
Cost    k times the evaluations of the move per step; a reward and a decode per particle and scoring; a proposal adds its own
Paper   100 DDIM steps, eta = 1, k = 2 to 8 (here 1), strength 10 (1), scored every 5 or 20 steps (each), resampled always or below
        k / 2; its code drops the weights of steps that are not resampled: not so here. TDS and DAS: proposal="gradient"

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=4)
    final = run(steer.fk(flow, rewards.brightness, flow.source(noise), flow.times(8), noise=noise, particles=4, strength=10.0))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch

from ..budget import Budget, budgeted
from ..control import Energy, flower
from ..entry import Count, Fraction, NonNegative, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..particles import Potential, Resampler, Tempering, Weights, ess, prompts, systematic, tempered
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Step
from ..transition import Moments, Transition, ancestral, ancestral_moments
from ..twist import Proposal, Twist


@checked
@budgeted
@torch.no_grad()
def fk(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    particles: Count = 1,
    strength: float = 1.0,
    potential: Potential = "difference",
    proposal: Proposal = "prior",
    tempering: Tempering | None = None,
    threshold: NonNegative = 0.5,
    every: Count = 1,
    start: Fraction = 0.0,
    stop: Fraction = 1.0,
    transition: Transition = ancestral,
    moments: Moments = ancestral_moments,
    inner: Inner = auto,
    energy: Energy = flower,
    resampler: Resampler = systematic,
    carried: Mapping[str, torch.Tensor] | None = None,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """FK: Feynman-Kac steering. Singhal et al. 2025, arXiv:2501.06848.

    Args:
        x: state `(b * particles, *shape)` at times[0], a prompt's particles together, as many streams in `noise`. times: the grid, to 1.
        particles: k per prompt.
        strength: factor of the reward.
        potential: what the rewards on the way do; the end is the same for all.
        proposal: where particles are sent: by the move, by the gradient of the reward, or by a control.
        tempering: share of the strength at each time; None for das with a proposal, off without.
        threshold: effective sample size, relative to k, below which a prompt is resampled; 0 for never, above 1 for always.
        every: score and resample at every so many steps, counted from the end so that a resumed run does it at the same ones.
        start: time before which nothing is scored but the last step.
        stop: time after which nothing is scored but the last step.
        transition: the move without a proposal.
        moments: mean and standard deviation of the move with a proposal.
        inner: how a control is found.
        energy: what a control costs.
        resampler: how particles are drawn anew.
        carried: `info` of the last step of an interrupted run, to resume it exactly.
        budget: what each prompt spends is counted there.

    Yields steps with info["log_w"], `(b, k)` float64; info["log_z"], estimates of log Z, and info["ess"], before resampling, `(b,)`;
    info["reward"], `(b * k,)`, as last scored; info["best"], `(b,)`, each prompt's highest row.
    Raises ValueError for a batch that is no multiple of k, and for adaptive tempering of another potential than difference, or of control.
    """
    b, k, total, x = prompts(len(x), particles, "fk"), particles, len(times) - 1, x.detach()
    adaptive, part = tempered("fk", tempering, proposal, potential, flow.path)
    twist = Twist(flow, reward, proposal, strength, transition, moments, inner, energy)
    weights = Weights.begin(b, k, potential, 0.0 if adaptive else part(times[0]), carried)
    sight = twist.begin(x, times[0], weights.level, carried)
    for i, (s, t) in enumerate(pairwise(times), 1):
        x, ratio = twist.moved(x, s, t, noise, sight, weights.level)
        last, due = i == total, i == total or ((total - i) % every == 0 and start <= t <= stop)
        weights, sight = weights.plus(ratio), twist.seen(x, t, sight.value, rate=due)
        if due:
            weights = weights.scored(strength * sight.value, part(t), potential, threshold if adaptive else None, last)
        size = ess(weights.log_w)
        if due and threshold and k > 1 and not last:
            pick, weights = weights.resampled(noise, threshold, resampler)
            x, sight = x[pick], sight.rows(pick)
        yield Step(i, total, t, x, sight.ends.clean, weights.told() | {"ess": size} | sight.told(k))
