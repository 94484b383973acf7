"""Noise search: sources around the best one so far. Ma et al. 2025, arXiv:2501.09732, zero-order search.

    n_j  <- sqrt(1 - radius^2) n + radius noise            j = 1 ... draws, sources near n
    x_j  <- the ODE's end from n_j
    n, x <- the best of n and the n_j by reward(decode(x_j)),  again and again

Needs   any reward; a start at t = 0
Budget  buys `iterations`, each of `draws` whole samples; never exceeded
Cost    1 + iterations * draws samplers' evaluations, rewards and decodes per row; no backward
Paper   The neighbours there are at a distance; here they are drawn so that each has the source's own law, N(0, 1) (the
        Crank-Nicolson proposal): no search far from the sphere where the network was trained. radius 1 is `best_of`.
        It seeks rewards, and has no law.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.noise_search(flow, rewards.brightness, flow.source(noise), flow.times(6), noise=noise, iterations=2, radius=0.3))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from ..budget import Budget, budgeted
from ..entry import Count, checked
from ..flow import Flow
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate, look
from ..step import Reward, Step, run
from ..transition import Transition, euler


@checked
@budgeted
@torch.no_grad()
def noise_search(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    iterations: Count = 5,
    draws: Count = 4,
    radius: Annotated[float, Gt(0), Le(1)] = 0.5,
    transition: Transition = euler,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Noise search: sources around the best one so far. Ma et al. 2025, arXiv:2501.09732, zero-order search.

    Args:
        x: source `(b, *shape)` at times[0] = 0, the first of each row.
        times: the grid.
        iterations: rounds of the search.
        draws: neighbours per round, sampled together.
        radius: share of fresh noise in a neighbour.
        transition: a move of the ODE: `euler`, `midpoint` or `heun`.
        budget: what each prompt may spend; the search ends before a round that it does not afford.

    Yields a step per round, the best sample so far, with info["reward"], `(b,)`, and info["source"], shaped as x.

    Raises:
        ValueError: a start after 0.
    """
    assert budget  # `budgeted` opens one
    if times[0] != 0:
        raise ValueError(
            f"noise_search: expected times from 0, got a start at t = {float(times[0]):g}; use path_search"
        )
    b, last, x = len(x), times[-1], x.detach()

    def sampled(source: State) -> tuple[Tensor, Tensor]:
        end = look(flow, run(integrate(flow, source, times, transition=transition)).x, last).clean
        return end, reward(flow.decode(end))

    end, value = sampled(x)
    for i in range(1, iterations + 1):
        before = budget.told()
        near = torch.stack([(1 - radius**2) ** 0.5 * x + radius * noise(x) for _ in range(draws)], 1)
        ends, values = sampled(near.flatten(0, 1))
        values = torch.cat([value[:, None], values.view(b, draws)], 1)
        pick, rows = values.argmax(1), torch.arange(b)
        x = torch.cat([x[:, None], near], 1)[rows, pick]
        end = torch.cat([end[:, None], ends.unflatten(0, (b, draws))], 1)[rows, pick]
        value = values[rows, pick]
        yield Step(i, iterations, last, end, end, {"reward": value, "source": x})
        if not budget.affords(budget.since(before)).all():
            return
