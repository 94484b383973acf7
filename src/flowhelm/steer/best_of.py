"""Best of n: independent samples, of which the one with the highest reward is kept.

    x_j ~ the prior's sampler from a source of its own     j = 1 ... draws
    x   <- the x_j of the highest reward(decode(x_j))

Needs   any reward
Cost    `draws` times the evaluations of the sampler, a reward and a decode each; no backward
Paper   None: it is what the others are compared with, and strong. Its law has the density n p(x) F(r(x))^(n - 1), F the
        distribution function of the reward under p, and KL divergence log n - (n - 1) / n from p. 50 samples of 10 steps in
        RBF (arXiv:2503.19385).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..budget import Budget
from ..flow import Flow
from ..grad import per_row
from ..rng import Noise
from ..solve import integrate, look
from ..step import Reward, Step, run
from ..transition import Transition, euler, heun, midpoint


@torch.no_grad()
def best_of(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    *,
    draws: int = 4,
    transition: Transition = euler,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Args:
    x: state `(b, *shape)` at times[0], where the first sample of each row starts. The others start from fresh sources if
        times[0] is 0, else from x too: then the transition must be random.
    times: the grid.
    draws: samples per row, n.
    transition: the sampler's move.
    budget: counts what is spent; the search ends before a sample that it does not afford. See `flowhelm.budget`.

    Yields a step per sample, the best one so far, with its info["reward"], `(b,)`.

    Raises:
        ValueError: fewer than 1 draw; a start after 0 with a move that is not random.
    """
    if draws < 1:
        raise ValueError(f"best_of: expected at least 1 draw, got {draws}")
    if draws > 1 and times[0] > 0 and transition in (euler, midpoint, heun):
        raise ValueError(
            f"best_of: expected a random transition for a start at t = {float(times[0]):g}, got {transition.__name__}; "
            "without one all samples are the same"
        )
    ledger = Budget() if budget is None else budget
    flow, reward = ledger.watch(flow, reward, len(x))
    x, last, best = x.detach(), times[-1], x.detach()
    top = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    for i in range(1, draws + 1):
        before = ledger.told()
        end = look(flow, run(integrate(flow, x, times, transition=transition, noise=noise)).x, last).clean
        value = reward(flow.decode(end))
        better = (value > top) | (i == 1)
        best, top = torch.where(per_row(better, end) > 0, end, best), torch.where(better, value, top)
        yield Step(i, draws, last, best, best, {"reward": top, **ledger.told()})
        if not ledger.affords(ledger.since(before)).all():
            return
        x = flow.source(noise).to(x) if times[0] == 0 else x
