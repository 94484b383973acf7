"""Flower: a flow's posterior, one Gaussian at a time. Pourya, El Rawas & Unser 2026, arXiv:2509.26287, Alg. 1.

    clean  <- E[clean | x_s],   nu^2 = sigma_s^2 / (alpha_s^2 + sigma_s^2)
    better <- argmin_z |A decode(z) - y - gamma std e'|^2 / (2 std^2) + |z - clean - gamma nu e|^2 / (2 nu^2)
    x      <- alpha_t better + sigma_t noise

For a linear measurement the minimiser is a prox, and `better` is normal: its mean that of the clean state given y if it was
N(clean, nu^2 I) before, its covariance gamma^2 times that of the same law. gamma = 0 is the mean, gamma = 1 a draw.

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   gamma 0; 100 steps, 200 (random mask) or 500 (deblur, super-resolution of AFHQ); one run, or the mean of five
        (here: one). There a draw is the mean plus a deviation solved for apart; one prox of a perturbed problem has
        the same law. Non-linear operators and decoders are not in the paper: gamma > 0 is randomise-then-optimise there.
        nu is the posterior deviation of a clean state N(m, I): for that prior gamma = 1 is exact on any grid. A
        photograph is known better than that, so that a draw keeps noise which the next steps take for detail.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.flower(flow, y, flow.source(noise), flow.times(20), gamma=1.0, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Fraction, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..measure import Measurement
from ..path import Ends, at
from ..prox import refined
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import renoise


@checked
@torch.no_grad()
def flower(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    gamma: Fraction = 0.0,
    inner: Inner = auto,
    noise: Noise,
) -> Iterator[Step]:
    """Flower: a flow's posterior, one Gaussian at a time. Pourya, El Rawas & Unser 2026, arXiv:2509.26287.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        gamma: 0 takes the mean of the refined estimate (restoration), 1 draws it (posterior samples), a value between mixes them.
        inner: solver for the refined estimate, see `flowhelm.inner`; its control is the displacement in units of nu.

    Yields steps with info["misfit"], 1/2 |A clean - y|^2 before the refinement, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        misfit = y.misfit(flow.decode(ends.clean))
        nu = at(flow.path, s, x).deviation
        guess, seen = ends.clean, y
        if gamma:
            guess = guess + gamma * nu * noise(guess)
            seen = y.perturbed(len(x), noise, gamma)
        better = refined(flow, seen, guess, nu**2, nu, inner)
        x = renoise(flow, x, s, t, noise, Ends(ends.source, better), amount=1.0)
        yield Step(i, total, t, x, better, {"misfit": misfit})
