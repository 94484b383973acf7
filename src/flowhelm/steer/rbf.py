"""RBF: rollover budget forcing. Kim et al. 2025, arXiv:2503.19385, Alg. 2.

    quota <- quota + draws
    x'    ~ the move from x_s,    r' <- reward(decode(clean')),  clean' = E[clean | x']       up to `quota` times
    if r' > r:  r <- r',  x <- x',  quota <- quota - the draws made; the next step         the rest rolls over
    if none is: x <- the best x',  quota <- 0, and r stays, so that the next step has to beat the record

Needs   any reward
Budget  buys `draws`; never exceeded
Cost    `starts` evaluations, then those of the move, a reward and a decode per draw: at most `draws` per step on average
Paper   10 steps (`grids.arc`: small first ones), 500 evaluations for 2 chains, here rows: draws 22, starts 25. A linear prior
        moves along the variance-preserving path, `guide.on_path(flow, VP())`, by `langevin(diffusion=diffusion.falling(4.5, 4))`; here by
        `transition`, on the flow's path (an exact prior has one estimate for all starts if alpha_0 = 0). The public code spends all that
        is left two steps before the end; here it goes on (`spend_rest`: the last two do so).

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.rbf(flow, rewards.brightness, flow.source(noise), flow.times(8), noise=noise, draws=4))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch

from ..budget import Budget, budgeted, some_scored
from ..entry import Count, checked
from ..flow import Flow
from ..particles import best
from ..path import Ends
from ..rng import Noise
from ..shapes import State, Times
from ..solve import look
from ..step import Reward, Step
from ..transition import Transition, ancestral


@checked
@budgeted
@torch.no_grad()
def rbf(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    draws: Count = 4,
    starts: Count = 1,
    spend_rest: bool = False,
    transition: Transition = ancestral,
    carried: Mapping[str, torch.Tensor] | None = None,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """RBF: rollover budget forcing. Kim et al. 2025, arXiv:2503.19385, Alg. 2.

    Args:
        x: state `(b, *shape)` at times[0], one chain per row. times: the grid.
        draws: added to the quota of each step.
        starts: sources of which the best begins, x and fresh ones; more than 1 need times[0] = 0.
        spend_rest: the last two steps use their whole quota and take the best, instead of the first that beats the record.
        transition: the move; one without noise, as the last of `ancestral`, is made and rated once.
        carried: `info` of the last step of an interrupted run, to resume it exactly.
        budget: what each prompt may spend; a chain that cannot afford more goes to the end without a search.

    Yields steps with info["reward"], that of the clean estimate, info["record"], the highest there was, info["quota"], what
    rolls over, and info["draws"], those made in this step: each `(b,)`.
    Raises ValueError for several starts after t = 0.
    """
    starts = starts if carried is None else 1
    if starts > 1 and times[0] > 0:
        raise ValueError(f"rbf: expected starts = 1 for times that begin at {float(times[0]):g}, got {starts}")
    assert budget  # `budgeted` opens one
    b, total, x = len(x), len(times) - 1, x.detach()
    x = torch.stack([x, *(flow.source(noise).to(x) for _ in range(starts - 1))], 1).flatten(0, 1)
    ends = look(flow, x, times[0])
    record = reward(flow.decode(ends.clean)).view(b, starts)
    pick, record = best(record), record.amax(1)
    x, ends = x[pick], ends.rows(pick)
    quota, price = torch.zeros(b, dtype=torch.int64), dict[str, torch.Tensor]()  # of a draw: the first one tells
    record, quota = (carried["record"], carried["quota"]) if carried is not None else (record, quota)
    for i, (s, t) in enumerate(pairwise(times), 1):
        start, begin, quota, x, ends = x, ends, quota + draws, x.clone(), Ends(*(e.clone() for e in ends))
        made, reached, rows = torch.zeros_like(quota), torch.full_like(record, -torch.inf), torch.arange(b)
        while len(rows):  # of the chains that still draw
            before, some = budget.told(), flow.rows(rows, b)
            new = transition(some, start[rows], s, t, noise.rows(rows), begin.rows(rows))
            fresh = (made[rows] == 0) | (new != x[rows]).flatten(1).any(1).cpu()
            if not fresh.any():  # a move without noise has no more to offer
                break
            rows, new = rows[fresh], new[fresh]
            some = some if fresh.all() else flow.rows(rows, b)
            after = look(some, new, t)
            value = some_scored(reward, some.decode(after.clean), rows, b)
            price = price or budget.since(before)
            take = (made[rows] == 0) | (value > reached[rows])
            won, chosen = value > record[rows], rows[take]
            x[chosen], reached[chosen] = new[take], value[take]
            ends.source[chosen], ends.clean[chosen] = after.source[take], after.clean[take]
            record[rows] = torch.where(won, value, record[rows])
            made[rows] += 1
            stop = (made[rows] >= quota[rows]) | (won & (i < total - 1 or not spend_rest))
            rows = rows[~stop & budget.affords(price, 1 + total - i)[rows]]  # keeps back what it takes to reach the end
        quota = quota - made
        info = {"reward": reached, "record": record.clone(), "quota": quota, "draws": made}
        yield Step(i, total, t, x, ends.clean, info)
