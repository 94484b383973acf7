"""FlowTurbo: Heun's steps, then a pseudo-corrector, then a refiner in place of the network. Zhao et al. 2024, arXiv:2409.18128, section 3.

    H  d = v(x, s),                         d+ = v(x + h d, t),               x <- x + h (d + d+) / 2,   v <- d
    P  d = the last P's d+, else v(x, s),   d+ = v(x + h d, t),               x <- x + h (d + d+) / 2,   v <- d+
    R  d = v + refiner(x, v, s),            d+ = d + refiner(x + h d, d, t),  x <- x + h (d + d+) / 2,   v <- d

Needs   any prior with a velocity at t = 1, and a refiner of it (`flowhelm distil PRIOR --method flow_turbo`); without one no step is an R
Cost    2 H + P evaluations, 1 more if P > 0, and 2 R of the refiner, a small network
Paper   H1 P5 R3 to H8 P9 R5, of the class-conditional SiT; few R, at the end, since their errors add up. Deviation: whole blocks are not
        compiled; with R alone, the first velocity is asked for, 1 evaluation.

Example

    from flowhelm import Noise, load, priors, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.flow_turbo(flow, flow.source(noise), flow.times(8), refiner=priors.refiner(flow)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ..entry import checked
from ..flow import Flow, NetFlow
from ..path import ends_from_velocity
from ..rng import Noise
from ..shapes import State, Times
from ..solve import refined
from ..step import Step


@checked
@torch.no_grad()
def flow_turbo(
    flow: Flow, x: State, times: Times, *, refiner: NetFlow | None = None, heun: Annotated[int, Ge(0)] = 1,
    light: Annotated[int, Ge(0)] | None = None, noise: Noise | None = None,
) -> Iterator[Step]:  # fmt: skip
    """FlowTurbo: Heun, pseudo-corrector, refiner. Zhao et al. 2024, arXiv:2409.18128, section 3.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        refiner: of `priors.refiner`, trained by `distil.flow_turbo`, told what the flow is told; None for the flow's own `refiner`, if it
            was opened with one.
        heun: so many steps at the start ask for both velocities.
        light: so many steps at the end ask the refiner in place of the network; None for a quarter of the steps, rounded.

    Yields one step per time, with the clean estimate of its start; info is empty.

    Raises:
        ValueError: `light` steps without a refiner, or more than there are steps.
    """
    refiner, total = refiner or getattr(flow, "refiner", None), len(times) - 1
    light = (round(total / 4) if refiner is not None else 0) if light is None else light
    if light and refiner is None:
        raise ValueError(
            f"flow_turbo: expected a refiner for {light} light steps, got none; train one, or take light=0"
        )
    if light > total:
        raise ValueError(f"flow_turbo: expected at most {total} light steps, as there are steps, got {light}")
    ahead: Tensor | None = None  # the velocity found at the end of the last P
    v: Tensor | None = None
    for i, (s, t) in enumerate(pairwise(times), 1):
        if i > total - light:
            assert refiner is not None
            d = flow.velocity(x, s) if v is None else refined(refiner, x, v, s)
            end, v = refined(refiner, x + (t - s) * d, d, t), d
        else:
            d = flow.velocity(x, s) if ahead is None else ahead
            end = flow.velocity(x + (t - s) * d, t)
            ahead = None if i <= heun else end
            v = d if i <= heun else end
        clean = ends_from_velocity(flow.path, d, x, s).clean
        x = x + (t - s) / 2 * (d + end)
        yield Step(i, total, t, x, clean, {})
