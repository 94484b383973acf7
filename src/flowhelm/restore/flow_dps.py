"""FlowDPS: flow-driven posterior sampling. Kim, Kim & Ye 2025, arXiv:2503.08136, Alg. 1.

    better <- clean, moved `inner` times by -rate * grad 1/2 |A decode(clean) - y|^2
    clean  <- (1 - sigma_s) clean + sigma_s better
    source <- sqrt(sigma_t) source + sqrt(1 - sigma_t) noise
    x      <- sigma_t source + alpha_t clean

Needs   differentiable operator
Cost    1 evaluation per step, forward only; `inner` backwards through the decoder and the operator
Paper   28 steps of a latent model, inner 3; there `rate` is absolute on the norm of the residual (15), here it is in
        units of std^2 on the log-likelihood, so that 1 fits a measurement of unit norm at once.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.flow_dps(flow, y, flow.source(noise), flow.times(20), rate=4.0, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import value_and_grad
from ..measure import Measurement
from ..path import Ends, at
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import renoise


@checked
@torch.no_grad()
def flow_dps(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    rate: NonNegative = 1.0,
    inner: Count = 3,
    noise: Noise,
) -> Iterator[Step]:
    """FlowDPS: flow-driven posterior sampling. Kim, Kim & Ye 2025, arXiv:2503.08136.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        rate: length of each gradient step on 1/2 |A clean - y|^2; it is stable below 2 / |A|^2.
        inner: how many gradient steps on the clean estimate each step of the grid makes.

    Yields steps with info["misfit"], 1/2 |A clean - y|^2 before the gradient steps, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        better, misfits = ends.clean, []
        for _ in range(inner):
            misfit, gradient = value_and_grad(lambda clean: y.misfit(flow.decode(clean)), better)
            better = better - rate * gradient
            misfits.append(misfit)
        sigma = at(flow.path, s, x).sigma
        clean = (1 - sigma) * ends.clean + sigma * better
        x = renoise(flow, x, s, t, noise, Ends(ends.source, clean), amount=1 - at(flow.path, t, x).sigma)
        yield Step(i, total, t, x, clean, {"misfit": misfits[0]})
