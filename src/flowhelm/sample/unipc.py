"""UniPC: predictor and corrector at one evaluation per step. Zhao et al. 2023, arXiv:2302.04867, Alg. 5 and 6.

    p = prediction at (x, s)                                      one evaluation, shared by both
    x <- the last step again, its polynomial through p as well    corrector, of order `order` + 1
    x <- a step through the last `order` predictions              predictor

Needs   any prior
Cost    1 evaluation per step; memory: `order` states, and the last one
Paper   Order 2 where guided, 3 where not, clean predictions over log(alpha / sigma), B(h) = e^-h - 1 (bh2), whose order-2 predictor
        and order-1 corrector take half the difference for the exact integral: rule="bh2" with variable="snr"; bh1 likewise; in
        other variables bh1 and bh2 are `exact`. Deviations: defaults are those that err least here (docs/sampling.md): velocity
        over time, exact weights. Public codes clamp sigma = 1 and truncate times to integers; these are the times themselves.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.unipc(flow, flow.source(noise), flow.times(8)))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le

from ..entry import checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.slopes import Slope
from ..multistep.variables import CLEAN_LOG, CLEAN_SNR, SOURCE_SNR, VELOCITY
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step

VARIABLES = {"time": VELOCITY, "log": CLEAN_LOG, "snr": CLEAN_SNR, "source": SOURCE_SNR}


@checked
@torch.no_grad()
def unipc(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[int, Ge(1), Le(4)] = 2,
    variable: Literal["time", "log", "snr", "source"] = "time",
    rule: Literal["exact", "bh1", "bh2"] = "exact",
    corrector: bool = True,
    slope: Slope | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """UniPC: predictor and corrector at one evaluation per step. Zhao et al. 2023, arXiv:2302.04867.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: predictions that the predictor is made of, fewer at the start; the corrector has one more.
        variable: velocity over time; clean over log(1 + alpha / sigma) or log(alpha / sigma); source over the latter.
        rule: of steps of two nodes: exact integrals, or the paper's halves.
        corrector: without it only the predictor is left.
        slope: a transform of the newest slope, `momentum` or `dual_fast`.

    Yields one step per time, with the clean estimate of its start; the state is the predicted one, which the next step corrects.
    """

    def bend(h: float, m: list[float]) -> list[float]:
        if len(m) > 1 or rule == "exact" or variable in ("time", "log"):
            return m
        z = h if variable == "source" else -h
        return [0.5 if rule == "bh2" else 0.5 * z / math.expm1(z)]

    past, total = Past(flow.path, VARIABLES[variable], order, slope), len(times) - 1
    begun, used, endless = x, order, math.isinf(past.place(times[-1]))
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        new = past.node(ends, s)
        if corrector and past:
            x = past.step(begun, s, past.slope(s, order=used, ahead=new, bend=bend))
        past.add(ends, s, (i - 1) / total, new)
        if endless:
            used = min(order, total - i + 1)  # as the paper has it
        begun, x = x, past.step(x, t, past.slope(t, order=used, bend=bend))
        yield Step(i, total, t, x, ends.clean, {})
