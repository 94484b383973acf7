"""FK: Feynman-Kac steering. Singhal et al. 2025, arXiv:2501.06848; twisted: TDS (arXiv:2306.17775), tempered: DAS (arXiv:2501.05803).

k weighted particles per prompt follow the prior's random move and are weighed by what their clean estimates are worth.
As k grows their law is p(clean) exp(strength * reward), p the sampler's as it is; their mean weight is unbiased for its
normalisation Z with any k:

    r      <- tempering_t * strength * reward(decode(clean)),    clean = E[clean | x_t]
    log G  <- r                   "difference": all of it counts at once, and is taken back when it changes
           or log G + max r       "max": over the particle's past
           or log G + sum r       "sum"
           or strength * reward(decode(x)) at t = 1, which makes up for whatever stood before
    x'     ~ the move, log w <- log w + (new - old) log G
           or ~ N(m', c), m' the mean m of the move if clean were better: log w += log N(x'; m, c) - log N(x'; m', c)
    resample the prompts whose effective sample size is below threshold * k

Needs   any reward; a differentiable one for a proposal
Cost    k times the evaluations of the move per step; a reward and a decode per particle and scoring. proposal="gradient":
        1 backward through network, decoder and reward for each evaluation; "control": backwards through decoder and
        reward only, none for a linear measurement of pixels
Paper   FK: 100 DDIM steps, eta = 1, k = 2 to 8, strength 10, scored every 5 or 20 steps, resampled always or below k / 2. Its code
        drops the weights of steps that are not resampled, and ends "max" and "sum" with the past instead of the reward:
        not so here. Difference suits most rewards, max those that are bounded below; sum needs very many particles.
        TDS and DAS: proposal="gradient"; psi is exp r. The twist of TDS is that of `restore.tds`, whose likelihood is
        softened instead of tempered. DAS: tempering (1.008^(100 t) - 1), at most 1. Without tempering a proposal can be
        worse than none, since early estimates are poor; "adaptive" keeps the effective size (Z is then not unbiased).
        "control": MPC-Flow's plan of one step, as a proposal; not in a paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..budget import Budget
from ..control import Energy, flower, planned
from ..flow import Flow
from ..grad import per_row
from ..inner import Inner, auto
from ..particles import Resampler, Tempering, anneal, best, ess, log_mean, prompts, resampled, share, systematic
from ..path import tilted
from ..rng import Noise
from ..solve import look, valued
from ..step import Reward, Step
from ..transition import Moments, Transition, ancestral, ancestral_moments, shifted


@torch.no_grad()
def fk(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    *,
    particles: int = 1,
    strength: float = 1.0,
    potential: Literal["difference", "max", "sum"] = "difference",
    proposal: Literal["prior", "gradient", "control"] = "prior",
    tempering: Tempering | None = None,
    threshold: float = 0.5,
    every: int = 1,
    start: float = 0.0,
    stop: float = 1.0,
    transition: Transition = ancestral,
    moments: Moments = ancestral_moments,
    inner: Inner = auto,
    energy: Energy = flower,
    resampler: Resampler = systematic,
    carried: Mapping[str, Tensor] | None = None,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Args:
    x: state `(b * particles, *shape)` at times[0], the particles of one prompt together; `noise` has as many streams.
    times: the grid; to its end it is scored in full, so end it at 1.
    particles: k per prompt.
    strength: factor of the reward.
    potential: what the intermediate rewards do; the end is the same for all.
    proposal: where particles are sent: by `transition`; or by `moments`, shifted by the gradient of r in x_t, or to the clean
        estimate that the reward and `energy` agree on, which `inner` finds.
    tempering: share of the strength at each time: all, DAS's, or what keeps the effective size at `threshold`; or a
        function of t. None: das with a proposal, off without.
    threshold: of the effective sample size, relative to k, below which a prompt is resampled (not at the end); 0 for never,
        above 1 for always.
    every: score and resample at every so many steps, and at the last.
    start: time before which, and `stop`, after which, nothing is scored but the last step.
    stop: see start.
    transition: the move without a proposal, any. moments: mean and std of the move with one.
    inner: how a control is found, see `flowhelm.inner`.
    energy: of a control: `flower` weighs the estimate as if it were off by sigma^2 / (alpha^2 + sigma^2), `integral` as MPC-Flow does.
    resampler: `particles.systematic`, `stratified` or `residual`.
    carried: `info` of the last step of an interrupted run, to resume it exactly.
    budget: counts what is spent; see `flowhelm.budget`.

    Yields steps with info["log_w"], `(b, k)` float64; resampling keeps the mean weight, so that info["log_z"] `(b,)`, its log,
    estimates log Z all along. info["ess"] `(b,)`, before resampling; info["reward"] `(b * k,)` as last scored, and
    info["best"] `(b,)`, the row of each prompt's highest. Particles of weight 0 (a reward of -infinity) stay so.

    Raises:
        ValueError: a batch that is no multiple of k; adaptive tempering of another potential than difference, or of control.
    """
    b, k, total, x = prompts(len(x), particles, "fk"), particles, len(times) - 1, x.detach()
    if tempering == "adaptive" and (potential != "difference" or proposal == "control"):
        raise ValueError("fk: expected potential='difference' and no control with adaptive tempering; take 'das'")
    target, ledger, gradient = reward, Budget() if budget is None else budget, proposal == "gradient"
    flow, reward = ledger.watch(flow, reward, b)
    part = share(tempering or ("off" if proposal == "prior" else "das"))
    log_w, level = torch.zeros(b, k, dtype=torch.float64), torch.full((b,), part(times[0]), dtype=torch.float64)
    log_g, past, value = (torch.full_like(log_w, v) for v in (0, -torch.inf if potential == "max" else 0, -torch.inf))
    if carried is not None:
        log_w, level = carried["log_w"], carried["level"]
        log_g, past, value = (carried[name].view(b, k) for name in ("log_g", "past", "reward"))
    if gradient and level.any():
        ends, _, pull = valued(flow, reward, x, times[0])
    else:
        ends, pull = look(flow, x, times[0]), torch.zeros_like(x)
    for i, (s, t) in enumerate(pairwise(times), 1):
        if proposal == "prior":
            x = transition(flow, x, s, t, noise, ends)
        else:
            mean, std = moments(flow, x, s, t, ends)
            better, factor = ends, strength * level
            if std > 0 and level.any() and flow.path(s).alpha > 0:
                if gradient:
                    # a proposal may be any: where there is no gradient, it is the prior's move
                    rise = per_row(factor.repeat_interleave(k), x) * pull.nan_to_num(0.0, 0.0, 0.0)
                    better = tilted(flow.path, ends, rise, s)
                else:
                    better = planned(flow, target, x, s, ends, float(factor[0]), energy, inner)
            x, ratio = shifted(mean, std, moments(flow, x, s, t, better)[0] - mean, noise)
            log_w = log_w + ratio.double().cpu().view(b, k)
        # counted from the end, so that a resumed run scores at the same steps
        due = i == total or ((total - i) % every == 0 and start <= t <= stop)
        if gradient:
            ends, value, pull = valued(flow, reward, x, t)
            value = value.view(b, k)
        else:
            ends = look(flow, x, t)
            value = reward(flow.decode(ends.clean)).view(b, k) if due else value
        if due:
            full = strength * value
            if i == total:
                level, new = torch.ones_like(level), full
            else:
                if tempering == "adaptive":
                    # a little below the threshold, so that whom it stops is resampled: at it, rounding would decide
                    level = anneal(log_w + (level[:, None] * full - log_g), full, level, threshold * (1 - 1e-8))
                else:
                    level = torch.full_like(level, part(t))
                r = torch.where(level[:, None] > 0, level[:, None] * full, 0.0)
                past = torch.maximum(past, r) if potential == "max" else past + r
                new = r if potential == "difference" else log_g + past
            log_w = log_w + (new - log_g)
            log_w, log_g = log_w.masked_fill(log_w.isnan(), -torch.inf), new
        size = ess(log_w)
        if due and threshold and k > 1 and i < total:
            pick, log_w = resampled(log_w, noise, threshold, resampler)
            x, ends, pull = x[pick], ends.rows(pick), pull[pick]
            log_g, past, value = (each.flatten()[pick].view(b, k) for each in (log_g, past, value))
        info = {"log_w": log_w, "log_z": log_mean(log_w), "ess": size, "level": level, "log_g": log_g.flatten()}
        info |= {"past": past.flatten(), "reward": value.flatten(), "best": best(value), **ledger.told()}
        yield Step(i, total, t, x, ends.clean, info)
