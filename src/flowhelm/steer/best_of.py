"""Best of n: independent samples, of which the one with the highest reward is kept. No paper, so no arXiv number.

    x_j ~ the prior's sampler from a source of its own     j = 1 ... draws
    x   <- the x_j of the highest reward(decode(x_j))

Needs   any reward
Budget  buys `draws`, each a whole sample; never exceeded
Cost    `draws` times the evaluations of the sampler, a reward and a decode each; no backward
Paper   None: it is what the others are compared with, and strong. Its law has the density n p(x) F(r(x))^(n - 1), F the
        distribution function of the reward under p, and KL divergence log n - (n - 1) / n from p. 50 samples of 10 steps in
        RBF (arXiv:2503.19385).

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.best_of(flow, rewards.brightness, flow.source(noise), flow.times(8), noise=noise, draws=4))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..budget import Budget, budgeted
from ..entry import Count, checked
from ..flow import Flow
from ..grad import per_row
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate, look
from ..step import Reward, Step, run
from ..transition import Transition, euler, heun, midpoint, rk4


@checked
@budgeted
@torch.no_grad()
def best_of(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    draws: Count = 4,
    transition: Transition = euler,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Best of n: independent samples, of which the one with the highest reward is kept. No paper, so no arXiv number.

    Args:
        x: state `(b, *shape)` at times[0], where the first sample of each row starts. The others start from fresh sources
            if times[0] is 0, else from x too: then the transition must be random.
        times: the grid.
        draws: samples per row.
        transition: the sampler's move.
        budget: what each prompt may spend; the search ends before a sample that it does not afford.

    Yields a step per sample, the best one so far, with its info["reward"], `(b,)`.

    Raises:
        ValueError: a start after 0 with a move that is not random.
    """
    assert budget  # `budgeted` opens one
    if draws > 1 and times[0] > 0 and transition in (euler, midpoint, heun, rk4):
        raise ValueError(
            f"best_of: expected a random transition for a start at t = {float(times[0]):g}, got {transition.__name__}; "
            "without one all samples are the same"
        )
    x, last, best = x.detach(), times[-1], x.detach()
    top = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    for i in range(1, draws + 1):
        before = budget.told()
        end = look(flow, run(integrate(flow, x, times, transition=transition, noise=noise)).x, last).clean
        value = reward(flow.decode(end))
        better = (value > top) | (i == 1)
        best, top = torch.where(per_row(better, end) > 0, end, best), torch.where(better, value, top)
        yield Step(i, draws, last, best, best, {"reward": top})
        if not budget.affords(budget.since(before)).all():
            return
        x = flow.source(noise).to(x) if times[0] == 0 else x
