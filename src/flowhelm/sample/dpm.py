"""DPM-Solver++: multi-step, of the clean prediction over the logarithm of alpha / sigma. Lu et al. 2022, arXiv:2211.01095.

With h = lambda+ - lambda, D the clean predictions, r = (lambda - lambda_{i-1}) / h:

    x <- (sigma+ / sigma) x + (alpha+ - alpha sigma+ / sigma) D_i
         + alpha+ (1 - e^-h) (D_i - D_{i-1}) / (2 r)                         2M, midpoint; exact: alpha+ ((e^-h - 1) / h + 1)
    SDE  the noise keeps a correlation e^(-eta h), the rest is fresh

Needs   any prior; a Noise for eta > 0
Cost    1 evaluation per step; memory: `order` states
Paper   2M midpoint is Alg. 2 of the paper, `exact` its exponential integrator (k-diffusion and diffusers call it heun), 3M and the SDE are
        those of diffusers and k-diffusion. Deviations: steps begin at alpha = 0 and end at sigma = 0 themselves, where public codes
        clamp the state's own coefficients; `log` takes log(1 + alpha / sigma), regular at the source, in the place of lambda. 3M as
        published is of second order, since its quadratic term is half as large: kappa
        = 1; 2 restores the third.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.dpm(flow, flow.source(noise), flow.times(8), variable="log"))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le

from ..entry import NonNegative, checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.slopes import Slope
from ..multistep.variables import CLEAN_LOG, CLEAN_SNR
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition


@checked
@torch.no_grad()
def dpm(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(3)] = 2,
    variable: Literal["snr", "log"] = "snr",
    rule: Literal["midpoint", "exact"] = "midpoint",
    kappa: Annotated[float, Ge(0), Le(2)] = 1.0,
    eta: NonNegative = 0.0,
    slope: Slope | None = None,
    start: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++: multi-step, of the clean prediction. Lu et al. 2022, arXiv:2211.01095.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: predictions that a step is made of; fewer at the start, one at the end.
        variable: log(alpha / sigma), or log(1 + alpha / sigma).
        rule: of second-order steps: half the difference, or its exact integral.
        kappa: factor of the quadratic term of order 3 in halves; 2 is exact.
        eta: fresh noise: 0 is deterministic, 1 the reverse SDE.
        slope: a transform of the newest slope, `momentum` or `dual_fast`.
        start: makes the first order - 1 steps, such as rk4; default: lower orders, which cost no more.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """

    def bend(h: float, m: list[float]) -> list[float]:
        return ([0.5] if rule == "midpoint" else m) if len(m) == 1 else [m[0], m[1] * kappa / 2]

    past, total = Past(flow.path, CLEAN_SNR if variable == "snr" else CLEAN_LOG, order, slope), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s, (i - 1) / total)
        if start is not None and i < order:
            x = start(flow, x, s, t, noise, ends)
        elif eta:
            keep = past.correlation(t) ** eta
            mean = past.step(x, t, past.slope(t, bend=bend, stretch=1 + eta), keep)
            x = past.noised(mean, t, keep, noise, "dpm")
        else:
            x = past.step(x, t, past.slope(t, bend=bend))
        yield Step(i, total, t, x, ends.clean, {})
