"""DPS: diffusion posterior sampling. Chung et al. 2023, arXiv:2209.14687, Alg. 1; for flows in the form of FIG's port.

    clean <- E[clean | x_s]
    x     <- move(x, s, t) - step * grad_x |A decode(clean(x)) - y|

Needs   differentiable operator
Cost    1 evaluation and 1 backward through the network per step (of a one-evaluation transition)
Paper   1000 ancestral steps, step 0.3 to 1; flow ports: 50 Euler steps, step 1 to 8 for pictures in
        [-1, 1], the first 2 steps unguided (here: those before `start`, so that a resumed run is the same run).
        `exact` takes the gradient of log p(y | clean) times its Bayesian factor instead of the norm: then the drift is
        v + kappa J^T A^T (y - A clean) / std^2, kappa = (1-t)/t on the linear path (unstable for small std).

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.jpeg(flow.shape, quality=10), picture, 0.05, noise)
    final = run(restore.dps(flow, y, flow.source(noise), flow.times(20), step=0.5))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Fraction, NonNegative, checked
from ..flow import Flow
from ..grad import per_row
from ..measure import Measurement
from ..path import at
from ..rng import Noise
from ..shapes import State, Times
from ..solve import valued
from ..step import Step
from ..transition import Transition, euler


@checked
@torch.no_grad()
def dps(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    step: NonNegative = 1.0,
    exact: bool = False,
    start: Fraction = 0.04,
    transition: Transition = euler,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DPS: diffusion posterior sampling. Chung et al. 2023, arXiv:2209.14687.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        step: length of the gradient step on the norm of the residual (image unit); with `exact`, a factor of the Bayesian drift.
        exact: follow the gradient of the log-likelihood instead of that of the residual's norm.
        start: time before which the state is not guided, because the estimate is still the mean picture.
        transition: how the state moves, such as `euler` or `ancestral`; random moves need `noise`.

    Yields steps with info["residual"], |A clean - y|, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends, misfit, gradient = valued(flow, y.misfit, x, s)
        norm = (2 * misfit).sqrt()
        x = transition(flow, x, s, t, noise, ends)
        c = at(flow.path, s, x)
        if exact and c.alpha > 0:
            x = x - (step * (t - s) * c.kappa / y.std**2) * gradient
        elif not exact and s >= start:
            x = x - step * gradient / per_row(norm.clamp(min=1e-12), x)
        yield Step(i, total, t, x, ends.clean, {"residual": norm})
