"""Search over paths: back towards noise, forth again, and the best go on. Ma et al. 2025, arXiv:2501.09732, Alg. "SoP".

From `start` on, for every step s -> t of the grid:

    y_j <- x noised from s to s - back                     j = 1 ... draws, for each of the particles of a prompt
    x_j <- the ODE from y_j to t, in `legs` steps
    x   <- the particles of the highest reward(decode(clean_j)),   clean_j = E[clean | x_j]

Needs   any reward
Budget  buys `draws`; from a search that it does not afford on, Euler steps are made
Cost    per step from `start` on draws * (legs + 1) evaluations and draws rewards and decodes per particle, one evaluation
        less each into t = 1; before it 1 evaluation. No backward
Paper   In RBF's comparison (arXiv:2503.19385) 2 particles, 5 draws, start 0.88, back 0.78, net steps of 0.03 in 4 legs. Here
        the net steps are the grid's, so that it starts earlier and goes back less. It seeks rewards, and has no law.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=2)
    final = run(steer.path_search(flow, rewards.brightness, flow.source(noise), flow.times(8), noise=noise, particles=2))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..budget import Budget, budgeted
from ..entry import Count, Fraction, NonNegative, checked
from ..flow import Flow
from ..grids import uniform
from ..particles import prompts
from ..path import Ends
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate, look
from ..step import Reward, Step, run
from ..transition import euler, noised


@checked
@budgeted
@torch.no_grad()
def path_search(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    particles: Count = 1,
    draws: Count = 5,
    start: Fraction = 0.5,
    back: NonNegative = 0.4,
    legs: Count = 4,
    budget: Budget | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Search over paths: back towards noise, forth again, and the best go on. Ma et al. 2025, arXiv:2501.09732.

    Args:
        x: state `(b * particles, *shape)` at times[0], the particles of one prompt together; `noise` has as many streams.
        times: the grid.
        particles: states kept per prompt.
        draws: paths tried per particle and step.
        start: time of the first search; before it, Euler steps are made.
        back: time that a path goes back, at most to 0.
        legs: evenly spaced steps in which a path returns.
        budget: what each prompt may spend; from a search that it does not afford on, Euler steps are made.

    Yields steps with info["reward"] of the clean estimates, `(b * particles,)`, the highest of a prompt first (nan before
    the first search).

    Raises:
        ValueError: a batch that is no multiple of the particles.
    """
    b, total, x, price = prompts(len(x), particles, "path_search"), len(times) - 1, x.detach(), None
    assert budget  # `budgeted` opens one
    value = torch.full((len(x),), torch.nan, dtype=torch.float64)
    ends: Ends | None = None
    for i, (s, t) in enumerate(pairwise(times), 1):
        if s < start or (price is not None and not budget.affords(price).all()):
            ends = look(flow, x, s) if ends is None else ends
            x, clean, ends = euler(flow, x, s, t, ends=ends), ends.clean, None
        else:
            before, early = budget.told(), max(float(s) - back, 0.0)
            way = uniform(legs, early, float(t))
            x = torch.stack([noised(flow, x, s, way[0], noise) for _ in range(draws)], 1).flatten(0, 1)
            x = run(integrate(flow, x, way)).x
            ends = look(flow, x, t)
            values = reward(flow.decode(ends.clean)).view(b, -1)
            value, pick = values.topk(particles)
            value, pick = value.flatten(), (pick + values.shape[1] * torch.arange(b)[:, None]).flatten()
            x, ends = x[pick], ends.rows(pick)
            clean, price = ends.clean, budget.since(before)
        yield Step(i, total, t, x, clean, {"reward": value})
