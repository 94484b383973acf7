"""DAPS: decoupled annealing posterior sampling. Zhang et al. 2025, arXiv:2407.01521, Alg. 1, in the time of a flow.

    guess <- the end of a few steps of the flow from (x, s)                                   `ode` Euler steps
    clean <- a draw of  exp(-|z - guess|^2 / (2 r^2) - |A decode(z) - y|^2 / (2 std^2)),
             r^2 = variance sigma_s^2 / (variance alpha_s^2 + sigma_s^2)
    x     <- alpha_t clean + sigma_t noise

The draw is exact where the measurement is linear, a prox of a perturbed problem; else, or with `exact` off, a Langevin chain

    z <- z + step grad log p(z) + sqrt(2 step) noise,   step = rate / (1 / r^2 + 1 / std^2)   `langevin` times, from guess

Needs   a differentiable operator
Cost    `ode` evaluations per step, forward only; a prox, or `langevin` backwards through decoder and operator
Paper   200 noise levels sigma / alpha from 100 down to 0.1, ode 5, langevin 100, r = sigma / alpha (here: variance None,
        cut at 100), a fixed std of 0.01 whatever the noise, Langevin steps of that std^2 falling to 1 % of it.
        With ode 1 the guess is the posterior mean and r^2 the posterior variance of clean states N(m, variance I): then
        it is exact on any grid for that prior, and for any other as good as r is. A photograph is known far better
        than its neighbours' law says, hence the small variance: with a large one the draw leaves noise that the
        next steps take for detail. It draws samples, whose PSNR is below that of a mean.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.daps(flow, y, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Count, Positive, checked
from ..flow import Flow
from ..grad import value_and_grad
from ..grids import uniform
from ..measure import Measurement
from ..path import Ends, at
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate
from ..step import Step
from ..transition import renoise


@checked
@torch.no_grad()
def daps(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    ode: Count = 1,
    variance: Positive | None = 0.01,
    exact: bool = True,
    langevin: Count = 100,
    rate: Positive = 0.1,
    noise: Noise,
) -> Iterator[Step]:
    """DAPS: decoupled annealing posterior sampling. Zhang et al. 2025, arXiv:2407.01521.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        ode: how many steps lead from the state to its clean end; 1 takes the posterior mean of the prior.
        variance: variance of a clean state that nothing is known of, in [image unit]^2; None is infinite, as in the paper.
        exact: draw exactly where the problem is linear; otherwise, or if false, by a Langevin chain.
        langevin: how many steps the Langevin chain has.
        rate: length of a step of the chain; keep it below 2 for an operator of |A| <= 1.

    Yields steps with info["misfit"], 1/2 |A guess - y|^2, `(b,)`.
    """
    total, solves = len(times) - 1, exact and solvable(flow, y)
    for i, (s, t) in enumerate(pairwise(times), 1):
        guess = [step.clean for step in integrate(flow, x, uniform(ode, float(s), 1.0))][-1]
        misfit = y.misfit(flow.decode(guess))
        c = at(flow.path, s, x)
        r2 = (1 / (c.alpha**2 / c.sigma**2 + (0 if variance is None else 1 / variance))).clamp(max=100.0**2)
        if solves:
            clean = guess + r2.sqrt() * noise(guess)
            clean = y.perturbed(len(x), noise).prox(clean, float(r2))
        else:
            clean, step = guess, rate / (1 / r2 + 1 / y.std**2)
            for _ in range(langevin):
                pull = value_and_grad(lambda z: y(flow.decode(z)), clean)[1] - (clean - guess) / r2
                clean = clean + step * pull + (2 * step).sqrt() * noise(clean)
        x = renoise(flow, x, s, t, noise, Ends(guess, clean), amount=1.0)  # all of the source is new: none is needed
        yield Step(i, total, t, x, clean, {"misfit": misfit})
