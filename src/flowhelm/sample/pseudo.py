"""Pseudo-corrector: Heun's rule at one evaluation per step. FlowTurbo, Zhao et al. 2024, arXiv:2409.18128, section 3.3.

    x~ = x + h d                                        d: the velocity found at the end of the last step
    d+ = v(x~, t+)
    x <- x + h (d + d+) / 2,    d <- d+

Needs   any prior
Cost    N + 1 evaluations, N if `last` is off
Paper   FlowTurbo's middle steps; of the first `heun` ones both velocities are asked for (2 evaluations each). `flow_turbo` has its refiner,
        too. Second order. Deviation: `last` off makes the last step with d alone, which saves its evaluation at t = 1 and
        is for paths that have no velocity there.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.pseudo(flow, flow.source(noise), flow.times(8)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge

from ..entry import checked
from ..flow import Flow
from ..path import ends_from_velocity
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def pseudo(
    flow: Flow,
    x: State,
    times: Times,
    *,
    heun: Annotated[int, Ge(0)] = 0,
    last: bool = True,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Pseudo-corrector: Heun's rule at one evaluation per step. Zhao et al. 2024, arXiv:2409.18128.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        heun: so many steps at the start ask for both velocities.
        last: ask for the velocity at the end, too.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    total, d = len(times) - 1, None
    for i, (s, t) in enumerate(pairwise(times), 1):
        if d is None or i <= heun:
            d = flow.velocity(x, s)
        clean = ends_from_velocity(flow.path, d, x, s).clean
        ahead = d if i == total and not last else flow.velocity(x + (t - s) * d, t)
        x = x + (t - s) / 2 * (d + ahead)
        d = ahead
        yield Step(i, total, t, x, clean, {})
