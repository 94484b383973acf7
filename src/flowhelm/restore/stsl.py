"""STSL: second-order Tweedie sampler from a surrogate loss. Rout et al. 2024, arXiv:2312.00852, Alg. 1; for flows, in pixels or latents.

By Jensen log p(y | x_s) >= -(|y - A D|^2 + tr(B C B^T)) / (2 std^2) + constant, with D = E[clean | x_s], B = A decode
linearised at D and C = Cov[clean | x_s] = (sigma^2 / alpha) dD/dx. The first term is DPS; the trace is probed:

    repeat: u <- N(0, 1) in the space of y;    p <- B^T u  (held fixed)
        loss <- 1/2 |y - A decode(D)|^2 + weight / 2 (sigma^2 / alpha) <p, (dD/dx) p>
        x    <- x - step / repeats * grad_x loss / |y - A decode(D)|
    x <- move(x, s, t), the last gradient and the move made from one evaluation

Needs   differentiable operator; a network that can be differentiated twice (variance_weight > 0)
Cost    "jvp": `repeats` evaluations per step, each with 2 backward, the second of which goes through the first as well; 1 without
        the variance. "secant": twice the evaluations, each with 1. "exact", for tests: 1 more for every number in y
Paper   50 DDIM steps of a latent model, 5 repeats, weight eta = 0.02, probe "secant", from an inverted A^T y:
        solve.inversion_start(flow, flow.encode(start.guess(y)), times), `--inverted`. Its trace is that of C, from D(x + u) - D(x),
        u of unit size: too long near the data, where the probes here are derivatives, <p, J p> by reverse mode (J and J^T
        have the same quadratic form). All weigh as the bound says. `exact`, `step`, `start` as in DPS, which this is with
        variance_weight = 0, repeats = 1. The penalty leads away from ambiguous states: it gains in looks, not as a sampler.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.stsl(flow, y, flow.source(noise), flow.times(20), step=1.0, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch

from ..entry import Count, Fraction, NonNegative, checked
from ..flow import Flow
from ..grad import dot, per_row, probes, twice, vjp
from ..measure import Measurement
from ..path import at
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition, euler


@checked
@torch.no_grad()
def stsl(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    step: NonNegative = 8.0,
    exact: bool = False,
    start: Fraction = 0.04,
    variance_weight: NonNegative = 1.0,
    probe: Literal["jvp", "secant", "exact"] = "jvp",
    repeats: Count = 1,
    transition: Transition = euler,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """STSL: second-order Tweedie sampler from a surrogate loss. Rout et al. 2024, arXiv:2312.00852.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        step: length of the gradient step in units of the residual's norm; with `exact`, a factor of the Bayesian drift.
        exact: follow the gradient of the bound on the log-likelihood instead of that divided by the residual's norm.
        start: time before which the state is not guided.
        variance_weight: weight of the trace, 1 as in the bound; 0 leaves it out, which is DPS.
        probe: how the trace is probed: in one random direction (`jvp`), by a difference in one (`secant`), or in all (`exact`).
        repeats: how many gradient steps each step of the grid makes, each 1 / repeats as long.
        transition: how the state moves, such as `euler` or `ancestral`; random moves need `noise`.

    Yields steps with info["residual"], |A clean - y|, and info["variance"], the (probed) trace, `(b,)` each.

    Raises:
        ValueError: a random probe without noise.
    """
    if variance_weight and probe != "exact" and noise is None:
        raise ValueError("stsl: expected a Noise for the random probe, got None; pass noise=Noise(seed, rows=len(x))")
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        c = at(flow.path, s, x)
        guided = bool(c.alpha > 0) if exact else bool(s >= start)
        for k in range(repeats if guided else 1):
            with torch.enable_grad(), twice():
                z = x.detach().requires_grad_()
                ends = flow.ends(z, s)
                r = y.residual(flow.decode(ends.clean))
                misfit, variance = 0.5 * dot(r, r), r.new_zeros(len(r))
                if variance_weight and c.alpha > 0 and probe == "secant" and noise is not None:
                    u = noise(z)
                    variance = c.sigma**2 / c.alpha * dot(u, flow.ends(z + u, s).clean - ends.clean)
                elif variance_weight and c.alpha > 0:
                    for u in probes(r.detach(), noise if probe == "jvp" else None):
                        p = vjp(lambda clean: y.residual(flow.decode(clean)), ends.clean, u)[1]
                        (pulled,) = torch.autograd.grad(ends.clean, z, p, create_graph=True)
                        variance = variance + c.sigma**2 / c.alpha * dot(p, pulled)
                (gradient,) = torch.autograd.grad((misfit + variance_weight / 2 * variance).sum(), z)
            ends, norm = ends.detach(), (2 * misfit.detach()).sqrt()
            if k + 1 == repeats or not guided:
                x = transition(flow, x, s, t, noise, ends)
            if guided and exact:
                x = x - (step * (t - s) * c.kappa / y.std**2) / repeats * gradient
            elif guided:
                x = x - step / repeats * gradient / per_row(norm.clamp(min=1e-12), x)
        yield Step(i, total, t, x, ends.clean, {"residual": norm, "variance": variance.detach()})
