"""AB: Adams-Bashforth on the velocity, of order 1 to 5; iPNDM and PLMS with even weights. Liu et al. 2022, arXiv:2202.09778.

    v_i = v(x_i, t_i)
    x   <- x + (t_{i+1} - t_i) sum_j w_j v_{i-j}        w: integrals of the polynomial through the last `order` velocities

Needs   any prior
Cost    1 evaluation per step; memory: `order` states
Paper   PNDM's linear multi-step part, in which iPNDM (Zhang & Chen 2023, arXiv:2204.13902) starts without Runge-Kutta steps:
        order 1, then 2, ... as here. Its weights are those of an even grid whatever the grid (`even`); the default integrates
        over the times themselves, which is rho-AB DEIS and diffusers' ipndm_v on the linear path, and the same on an even grid.
        From an order-1 start the whole is of second order at most: `start=rk4` restores order 3 and more.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.ab(flow, flow.source(noise), flow.times(8), order=3))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le

from ..entry import checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.slopes import Slope
from ..multistep.variables import VELOCITY
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition


@checked
@torch.no_grad()
def ab(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(5)] = 2,
    spacing: Literal["own", "even"] = "own",
    slope: Slope | None = None,
    start: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """AB: Adams-Bashforth on the velocity. Liu et al. 2022, arXiv:2202.09778.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: velocities that a step is made of; fewer at the start.
        spacing: weights for the grid's own times, or those of an even grid, as iPNDM has them.
        slope: a transform of the newest slope, `momentum` or `dual_fast`.
        start: makes the first order - 1 steps, such as rk4; default: lower orders, which cost no more.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    even = VELOCITY._replace(place=lambda a: float((times < a.t).sum()))
    past = Past(flow.path, VELOCITY if spacing == "own" else even, order, slope)
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s, (i - 1) / total)
        if start is not None and i < order:
            x = start(flow, x, s, t, noise, ends)
        else:
            x = past.step(x, t, past.slope(t))
        yield Step(i, total, t, x, ends.clean, {})
