"""DEIS: exponential integrator of the source prediction. Zhang & Chen 2023, arXiv:2204.13902.

    x <- (alpha+ / alpha) x + alpha+ int P d(sigma / alpha)      P: the polynomial through the last `order` predicted sources

Needs   any prior
Cost    1 evaluation per step; memory: `order` states
Paper   tAB-DEIS (polynomials over t), rho-AB-DEIS (over sigma / alpha), and that of diffusers (over its logarithm), eq. 14 and 15.
        Deviations: on rectified flows the paper's form is degenerate at alpha = 0; the first step is the DDIM step of the clean
        prediction, and nodes at infinity have no part. The last step reaches sigma = 0, which diffusers' does not.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.deis(flow, flow.source(noise), flow.times(8), variable="time"))
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
from ..multistep.variables import SOURCE_RATIO, SOURCE_SNR, SOURCE_TIME
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition

VARIABLES = {"time": SOURCE_TIME, "ratio": SOURCE_RATIO, "log": SOURCE_SNR}


@checked
@torch.no_grad()
def deis(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(4)] = 2,
    variable: Literal["time", "ratio", "log"] = "time",
    slope: Slope | None = None,
    start: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DEIS: exponential integrator of the source prediction. Zhang & Chen 2023, arXiv:2204.13902.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: predictions that a step is made of; fewer at the start.
        variable: of the polynomial: t (tAB), sigma / alpha (rho-AB) or its logarithm (as diffusers has it).
        slope: a transform of the newest slope, `momentum` or `dual_fast`.
        start: makes the first order - 1 steps, such as rk4; default: lower orders, which cost no more.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    past, total = Past(flow.path, VARIABLES[variable], order, slope), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s, (i - 1) / total)
        if start is not None and i < order:
            x = start(flow, x, s, t, noise, ends)
        else:
            x = past.step(x, t, past.slope(t))
        yield Step(i, total, t, x, ends.clean, {})
