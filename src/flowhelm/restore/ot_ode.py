"""OT-ODE: training-free linear inversion by flows. Pokle et al. 2024, arXiv:2310.04432, Alg. 1; PiGDM (Song et al. 2023) on a flow.

    clean <- E[clean | x_s];    r2 = sigma^2 / (alpha^2 + sigma^2)
    pull  <- J^T A^T (r2 A A^T + std^2)^-1 (y - A clean),    J = d clean / d x
    clean <- clean + sigma^2/alpha gamma pull,    source <- source - sigma gamma pull
    x     <- move(x, s, t) along these ends; Euler: x + h (v + kappa gamma pull), kappa = (1-t)/t on the linear path

The pull is grad log p(y | x_s) if Cov[clean | x_s] were r2 I, which it is for a prior N(mean, I). Before `start` the
state goes straight to A^T y without the network: there x_t = alpha_t A^T y + sigma_t source.

Needs   linear operator on a pixel prior; else a differentiable one, see below
Cost    1 evaluation and 1 backward through the network per step after `start`, none before
Paper   100 Euler steps, here ancestral ones by default, which lose less detail on photographs (`transition=euler` is
        the paper's); (start, gamma) for CelebA: denoise (0.3, sqrt), deblur (0.4, sqrt), super-resolution and random
        mask (0.1, one), box (0.1, sqrt). Not in the paper: without a closed solution (non-linear operator, decoder) the
        inverse is taken as 1 / (r2 + std^2), exact where A A^T = 1, the pull is J^T grad log p(y | clean) times
        std^2 / (r2 + std^2), and `start` is not read.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.box(flow.shape), picture, 0.05, noise)
    final = run(restore.ot_ode(flow, y, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt

from ..entry import checked
from ..flow import Flow
from ..grad import value_and_grad
from ..measure import LinearOperator, Measurement
from ..path import at, tilted
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import Transition, ancestral


@checked
@torch.no_grad()
def ot_ode(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    gamma: Literal["one", "sqrt"] = "sqrt",
    start: Annotated[float, Ge(0), Lt(1)] = 0.1,
    transition: Transition = ancestral,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """OT-ODE: training-free linear inversion by flows. Pokle et al. 2024, arXiv:2310.04432.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        gamma: factor of the pull: `one`, or `sqrt` for sqrt(alpha / (alpha^2 + sigma^2)), which is smaller near the source.
        start: time from which on the network is asked.
        transition: how the state moves, such as `ancestral` or `euler` (one evaluation); random moves need `noise`.

    Yields steps with info["residual"], |A clean - y|, `(b,)`.
    """
    total, closed = len(times) - 1, solvable(flow, y)
    for i, (s, t) in enumerate(pairwise(times), 1):
        c, d = at(flow.path, s, x), at(flow.path, t, x)
        if closed and s < start:
            assert isinstance(y.operator, LinearOperator)  # `solvable` was asked
            clean = y.operator.A_adjoint(y.repeated(len(x))).to(x)
            keep = d.sigma / c.sigma
            x = keep * x.detach() + (d.alpha - keep * c.alpha) * clean
        else:
            with torch.enable_grad():
                z = x.detach().requires_grad_()
                ends = flow.ends(z, s)
            clean, moved = ends.clean.detach(), ends.detach()
            if c.alpha > 0:
                r2 = c.variance
                if closed:
                    w = (y.prox(clean, float(r2)) - clean) / r2
                else:
                    w = -value_and_grad(lambda clean: y.misfit(flow.decode(clean)), clean)[1] / (r2 + y.std**2)
                (pull,) = torch.autograd.grad(ends.clean, z, w)
                pull = pull if gamma == "one" else (c.alpha / (c.alpha**2 + c.sigma**2)).sqrt() * pull
                moved = tilted(flow.path, moved, pull, s)
            x = transition(flow, z.detach(), s, t, noise, moved)
        yield Step(i, total, t, x, clean, {"residual": (2 * y.misfit(flow.decode(clean))).sqrt()})
