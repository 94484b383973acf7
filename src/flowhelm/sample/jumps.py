"""Jumps: one evaluation of a flow map to each step, however long. Song et al. 2023, arXiv:2303.01469; Chen et al. 2025, arXiv:2510.14974.

    x <- map(x, s, t)
    x <- (alpha_t + sigma_t m) map(x, s, d) + sigma_t sqrt(1 - m^2) noise          with fresh > 0, d beyond t: see `flow_map.jump`

Needs   a `FlowMap`: a student of `flowhelm distil`, or a model of two times
Cost    1 evaluation per step
Paper   A large `fresh` is consistency sampling: to the end, and back with new noise. Deviation: the last step draws no noise. A step's
        clean estimate is its state, since another would cost an evaluation: `flow.map(x, t, 1)`.

Example

    from flowhelm import Noise, load, priors, run, sample
    flow, noise = priors.student(load("fashion")), Noise(0, rows=1)
    final = run(sample.jumps(flow, flow.source(noise), flow.times(8)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import NonNegative, checked
from ..flow import Flow, FlowMap
from ..flow_map import jump
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def jumps(
    flow: Flow,
    x: State,
    times: Times,
    *,
    fresh: NonNegative = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Jumps: one evaluation of a flow map to each step. Song et al. 2023, arXiv:2303.01469; Chen et al. 2025, arXiv:2510.14974.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        fresh: how much of the noise is drawn anew: 0 for none; 100 for nearly all of it, which is for maps that know the way to t = 1 only.

    Raises:
        ValueError: a flow that is no map; fresh noise without `noise`.
    """
    if not isinstance(flow, FlowMap):
        raise ValueError(
            f"jumps: expected a flow map, such as a student of flowhelm distil, got {type(flow).__name__}; take euler or unipc"
        )
    if fresh and noise is None:
        raise ValueError("jumps: expected a `noise` to draw from with fresh > 0, got none")
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        if fresh and noise is not None and i < total:
            x = jump(flow, x, s, t, noise(x), h=fresh)
        else:
            x = flow.map(x, s, t)
        yield Step(i, total, t, x, x, {})
