"""RES: multi-step exponential integrator of the clean prediction, refined. Zhang et al. 2023, arXiv:2308.02157.

With u = -log sigma on the linear path (log(1 + alpha / sigma) on others), h = u+ - u, and D the clean predictions:

    x <- e^-h x + int_0^h e^(v - h) P(v) dv        P: the polynomial through the last `order` D

Needs   any prior; a Noise for eta > 0
Cost    1 evaluation per step; memory: `order` states
Paper   Order 2, as ComfyUI's res_multistep has it; algebraically the exact rule of DPM-Solver++ 2M in this variable. Order 3 is the
        same with one node more. eta > 0: the ancestral noise of `ancestral_euler`, for which public codes took the variance-exploding
        one on rectified flows. Deviation: the first step is of order 1 from sigma = 1 itself, and the last one is.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.res(flow, flow.source(noise), flow.times(8)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, Le

from ..entry import Fraction, checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.slopes import Slope
from ..multistep.variables import CLEAN_LOG
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition


@checked
@torch.no_grad()
def res(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(4)] = 2,
    eta: Fraction = 0.0,
    slope: Slope | None = None,
    start: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """RES: multi-step exponential integrator of the clean prediction. Zhang et al. 2023, arXiv:2308.02157.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: predictions that a step is made of; fewer at the start, one at the end.
        eta: fresh noise, as of `ancestral_euler`: 0 is deterministic.
        slope: a transform of the newest slope, `momentum` or `dual_fast`.
        start: makes the first order - 1 steps, such as rk4; default: lower orders, which cost no more.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    past, total = Past(flow.path, CLEAN_LOG, order, slope), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s, (i - 1) / total)
        if start is not None and i < order:
            x = start(flow, x, s, t, noise, ends)
        elif eta:
            keep = past.ancestral(t, eta)
            x = past.noised(past.step(x, t, past.slope(t), keep), t, keep, noise, "res")
        else:
            x = past.step(x, t, past.slope(t))
        yield Step(i, total, t, x, ends.clean, {})
