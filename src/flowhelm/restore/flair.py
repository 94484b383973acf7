"""FLAIR: variational flow matching with hard data consistency. Erbach et al. 2025, arXiv:2506.02680, Alg. 1.

A single picture, the mean mu of a narrow law, is moved towards what the network sees in a noisy copy of it, and after each
move back to the measurement, as near as the measurement's noise asks for:

    clean <- E[clean | x_s]
    mu    <- mu + min(lambda_s / sigma_s, 1) (clean - mu),   lambda_s = weight weights(s)
    while |A decode(mu) - y|^2 > m std^2, at most `inner` times:
        mu <- mu - step g,   g = J^T (A decode(mu) - y),   J the derivative of A decode
    x     <- t mu + sigma_t (a source + sqrt(1 - a^2) noise),   a = carry t,   source = E[source | x_s]

so that the nearer the end, the more the noise of the copy is the network's own. m counts the entries of y that see
something. weights(s) is the reciprocal of the network's flow-matching error: see `velocity_error`.

Needs   a differentiable operator; a prior on the linear path (others: guide.on_path)
Cost    1 evaluation per step, forward only; at most `inner` times 3 passes through the decoder and the operator
Paper   50 noise levels from 1 to 0.18, weight 0.5, inner 15, carry 1, std 0.01, a latent model with guidance 2; mu begins at
        the encoded pseudo-inverse of y, here at the most probable picture of N(0, I) given y, whose noise is bounded (for a
        non-linear operator at the first estimate). Deviations: the paper's data steps are lambda times 0.1 to 12, by task;
        here a row's goes to where the residual is m std^2, and at most `rate` times as far as the minimum along g.
        lambda / sigma is cut at 1, beyond which mu would overtake the estimate. Without `weights`, those of the prior
        N(0, I) are taken. carry 1/2: searches on photographs found 0.2 to 0.43 (`flowhelm presets list`).
        mu is no sample of the posterior: right in its residual, wrong in its law.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.random_mask(flow.shape), picture, 0.05, noise)
    final = run(restore.flair(flow, y, flow.source(noise), flow.times(20), carry=0.3, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch

from ..control import check
from ..entry import Count, Fraction, Positive, checked
from ..flow import Flow
from ..measure import Measurement
from ..path import at, mix
from ..prox import fitted, solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..velocity_error import Weights, normal


@checked
@torch.no_grad()
def flair(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive = 0.5,
    weights: Weights | None = None,
    inner: Count = 15,
    rate: Positive = 0.9,
    data: Literal["gradient", "prox"] = "gradient",
    tolerance: Positive = 1.0,
    carry: Fraction = 0.5,
    stop: Fraction = 1.0,
    plan: torch.Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """FLAIR: variational flow matching with hard data consistency. Erbach et al. 2025, arXiv:2506.02680.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid, ending at 1.
        weight: weight of the prior against the measurement.
        weights: how the prior's weight depends on the time; `velocity_error.table` makes it from what `flowhelm presets velocity` writes.
        inner: how many data steps follow each step at most.
        rate: longest gradient step in units of the best one, below 2; with `prox`, the length of its step.
        data: kind of data step: `gradient`, or `prox` (argmin rate/2 |A z - y|^2 + 1/2 |z - mu|^2) for linear measurements of pixels.
        tolerance: root mean square residual at which the data steps end, in units of std.
        carry: share a = carry t of the network's own noise that is kept; 1 is sharper, 0 (all noise drawn anew) smoother.
        stop: time from which on the prior no longer moves mu; the paper's is 0.82.
        plan: mu of an interrupted run (info["plan"] of its last step), to resume it exactly.

    Yields steps whose clean is mu; info["misfit"] `(b,)`, 1/2 |A mu - y|^2 of the entries that see something, before the
    data steps, info["inner"], their number, and info["plan"], mu `(b, 1, *shape)`.

    Raises:
        ValueError: another path, a grid that does not end at 1, a rate too large, `prox` where there is none.
    """
    check(flow, times, "flair")
    if rate >= 2 and data == "gradient":
        raise ValueError(f"flair: expected a rate below 2 for gradient steps, got {rate}; longer ones raise the misfit")
    if data == "prox" and not solvable(flow, y):
        raise ValueError("flair: expected a linear measurement of a pixel prior for data='prox'; use data='gradient'")
    total, mu = len(times) - 1, None if plan is None else plan[:, 0]
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        if mu is None:
            mu = flow.encode(y.prox(torch.zeros_like(flow.decode(ends.clean)), 1.0)) if y.linear else ends.clean
        if s < stop:
            share = weight * (weights or normal)(s) / at(flow.path, s, x).sigma
            mu = mu + share.clamp(max=1) * (ends.clean - mu)
        mu, info = fitted(flow, y, mu, tolerance, inner, rate, data)
        if t < 1:
            a = carry * t
            x = mix(flow.path, a * ends.source + (1 - a**2).sqrt() * noise(x), mu, t)
        yield Step(i, total, t, x if t < 1 else mu, mu, info | {"plan": mu[:, None]})
