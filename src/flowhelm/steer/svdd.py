"""SVDD: the best of several moves, at every step. Li et al. 2024, arXiv:2408.08252 (SVDD-PM).

    x'_j ~ the move from x_s                               j = 1 ... draws
    r_j  <- reward(decode(clean_j)),    clean_j = E[clean | x'_j]
    x    <- the x'_j of the highest r_j                    or of one drawn with weight exp(strength r_j)

With `block` above 1 each x'_j goes on by so many moves before one is chosen: CoDe (Singh et al. 2025, arXiv:2502.00968).

Needs   any reward
Budget  buys `draws`; it is counted, not bounded
Cost    `draws` times the evaluations of the move per step and row (the ends at the start of a step are shared), as many
        rewards and decodes; no backward. Draws that are all the same, of a move without noise, are looked at and rated once
Paper   10 draws; 25 with 2 chains in RBF's comparison (arXiv:2503.19385). Rows are chains that never compete: give a prompt
        several and keep the best at the end. It seeks rewards; it draws from p(clean) exp(strength reward) only as the draws
        become many and if the reward of the clean estimate were the log-mean-exp of the rewards to come. The paper's
        regression of those (SVDD-MC) is not here: put it in the reward's place. CoDe's start from a noised reference is not here.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.svdd(flow, rewards.brightness, flow.source(noise), flow.times(8), noise=noise, draws=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..budget import Budget, budgeted
from ..entry import Count, checked
from ..flow import Flow
from ..particles import best, categorical
from ..rng import Noise
from ..shapes import State, Times
from ..solve import look
from ..step import Reward, Step
from ..transition import Transition, ancestral


@checked
@budgeted
@torch.no_grad()
def svdd(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    draws: Count = 10,
    block: Count = 1,
    strength: float | None = None,
    transition: Transition = ancestral,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """SVDD: the best of several moves, at every step. Li et al. 2024, arXiv:2408.08252 (SVDD-PM).

    Args:
        x: state `(b, *shape)` at times[0], one chain per row.
        times: the grid.
        draws: moves tried per step and row.
        block: moves of each before one is chosen (CoDe, arXiv:2502.00968), counted from the end; the whole grid is the best of `draws`.
        strength: factor of the reward in the choice; None takes the highest.
        transition: the move, a random one.
        budget: what each prompt spends is counted there.

    Yields steps with info["reward"] of the clean estimate, `(b,)`.
    """
    b, total, x = len(x), len(times) - 1, x.detach()
    ends = look(flow, x, times[0])
    tried = [(x, ends)] * draws
    for i, (s, t) in enumerate(pairwise(times), 1):
        moved = [transition(flow, each, s, t, noise, seen) for each, seen in tried]
        if all(torch.equal(moved[0], each) for each in moved[1:]):  # a move without noise, as the last of `ancestral`
            moved = moved[:1]
        x = torch.stack(moved, 1).flatten(0, 1)  # the draws of a row together, as conditions of rows are repeated
        ends, k = look(flow, x, t), len(moved)
        if (total - i) % block:
            each = [torch.arange(j, b * k, k) for j in range(k)]
            tried = [(x[rows], ends.rows(rows)) for rows in each] * (draws // k)
            continue
        value = reward(flow.decode(ends.clean)).view(b, -1)
        pick = best(value) if strength is None else categorical(strength * value, noise)
        x, ends, won = x[pick], ends.rows(pick), value.flatten()[pick]
        tried = [(x, ends)] * draws
        yield Step(i, total, t, x, ends.clean, {"reward": won})
