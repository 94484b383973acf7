"""ReBridge-Flow: both ends of the path are refined together. September 2026; no arXiv number is at hand.

    source, clean <- E[source | x_s], E[clean | x_s]
    a, b          <- argmin  |A decode(b) - y|^2 / std^2 + rho |b - clean|^2 + lam |a - source|^2
                             + kappa |sigma_s a + alpha_s b - x|^2
    x             <- move(x, s, t; source = a, clean = b)

The best a for a given b is (lam source + kappa sigma_s (x - alpha_s b)) / (lam + kappa sigma_s^2); with it the last two
terms are kappa lam alpha_s^2 / (lam + kappa sigma_s^2) |b - clean|^2, so that b is a prox of the measurement.

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   100 steps, rho 1, lam 1, kappa 5, transition `euler`; linear path and operator, where the b above is written
        clean + A^T (A A^T + g I)^-1 (y - A clean), g = std^2 (rho + kappa lam t^2 / (lam + kappa (1-t)^2)).
        Other paths and decoders are additions. On the bundled photographs' prior the Euler step leaves a blurred
        picture no better and a masked one unfilled, and kappa 5 fits the noise of y; hence `renoise` and kappa 100.
        As kappa grows the two ends mix to the state exactly, and at rho = lam = 1 the prox becomes that of Flower.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.rebridge(flow, y, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import NonNegative, Positive, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..measure import Measurement
from ..path import Ends, at
from ..prox import refined
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition, renoise


@checked
@torch.no_grad()
def rebridge(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    rho: Positive = 1.0,
    lam: Positive = 1.0,
    kappa: NonNegative = 100.0,
    inner: Inner = auto,
    transition: Transition = renoise,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """ReBridge-Flow: both ends of the path are refined together. September 2026; no arXiv number is at hand.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        rho: trust in the clean end that the prior predicts, in 1 / [image unit]^2.
        lam: trust in the source end that the prior predicts, in 1 / [image unit]^2.
        kappa: how firmly the two refined ends must still mix to the state; 0 leaves the source as it is.
        inner: solver for the clean end, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).
        transition: how the refined ends become the next state, such as `renoise` or `euler` (the paper's).

    Yields steps with info["misfit"], 1/2 |A clean - y|^2 before the refinement, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        misfit = y.misfit(flow.decode(ends.clean))
        c = at(flow.path, s, x)
        tied = lam + kappa * c.sigma**2
        trust = rho + kappa * lam * c.alpha**2 / tied
        clean = refined(flow, y, ends.clean, 1 / trust, c.deviation, inner)
        source = (lam * ends.source + kappa * c.sigma * (x - c.alpha * clean)) / tied
        x = transition(flow, x, s, t, noise, Ends(source, clean))
        yield Step(i, total, t, x, clean, {"misfit": misfit})
