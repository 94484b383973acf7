"""GHVB: Adams-Bashforth with momentum first, of real-valued order. Wizadwongsa et al. 2023, arXiv:2307.11118, Alg. 2.

With q the order, r = ceil(q), beta = q - (r - 1), and D the backward difference over steps:

    u <- (1 - beta) u + beta v(x, t)                        from u = v
    x <- x + (t+ - t) sum_{k < r} (c_k / beta) D^k u        c: (beta + (1 - beta) D)(1 + D/2 + 5 D^2/12 + 3 D^3/8 + 251 D^4/720)

Needs   any prior
Cost    1 evaluation per step; memory: ceil(order) states
Paper   Orders 3.8 and 3.9 below ten steps, lower ones for stronger guidance. At an integer order it is Adams-Bashforth (iPNDM). It has
        order r for every beta once it has r velocities, and the smaller beta, the larger its error and its region of stability. The
        weights are those of an even grid, whatever the grid. Deviations: on the velocity over t, where the paper takes the predicted
        source over sigma / alpha, which is infinite at the source of a rectified flow; the sign of v_n in its order-2 formula is
        that of its Alg. 2.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.ghvb(flow, flow.source(noise), flow.times(8), order=1.8))
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from ..entry import checked
from ..flow import Flow
from ..path import velocity
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition

ADAMS = (1, 1 / 2, 5 / 12, 3 / 8, 251 / 720)


def coefficients(terms: int, beta: float) -> list[float]:
    """Weights of u_n, u_{n-1}, ... of `terms` terms of the series."""
    series = [beta * ADAMS[k] + (1 - beta) * (ADAMS[k - 1] if k else 0) for k in range(terms)]
    return [sum((-1) ** j * math.comb(k, j) * series[k] / beta for k in range(j, terms)) for j in range(terms)]


@checked
@torch.no_grad()
def ghvb(
    flow: Flow,
    x: State,
    times: Times,
    *,
    order: Annotated[float, Gt(0), Le(5)] = 1.8,
    start: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """GHVB: Adams-Bashforth with momentum first, of real-valued order. Wizadwongsa et al. 2023, arXiv:2307.11118.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        order: q; its fraction is the damping beta (that of an integer is 1, no momentum). Lower is steadier, higher more exact.
        start: makes the first ceil(order) - 1 steps, such as rk4; default: fewer terms, which cost no more.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    r = math.ceil(order)
    beta, total, u = order - (r - 1), len(times) - 1, None
    past: deque[Tensor] = deque(maxlen=r)
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        v = velocity(flow.path, ends, s)
        u = v if u is None else (1 - beta) * u + beta * v
        past.appendleft(u)
        if start is not None and i < r:
            x = start(flow, x, s, t, noise, ends)
        else:
            for w, each in zip(coefficients(len(past), beta), past, strict=True):
                x = torch.add(x, each, alpha=w * float(t - s))
        yield Step(i, total, t, x, ends.clean, {})
