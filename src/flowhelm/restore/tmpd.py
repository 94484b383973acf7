"""TMPD: Tweedie moment projected diffusions. Boys et al. 2023, arXiv:2310.06721, Alg. 1, on a flow.

    clean <- E[clean | x_s];    C = Cov[clean | x_s] = (sigma^2 / alpha) J,    J = d clean / d x  (symmetric)
    pull  <- J^T B^T (B C B^T + std^2)^-1 (y - A decode(clean)),    B = A decode, linearised at clean
    clean <- clean + sigma^2/alpha pull,    source <- source - sigma pull
    x     <- move(x, s, t) along these ends; Euler: x + h (v + kappa pull), kappa = (1-t)/t on the linear path

The pull is grad log p(y | x_s) but for the dependence of C on x: exact for every normal prior and linear A.

Needs   operator (and decoder) that can be differentiated twice
Cost    1 evaluation per step and up to `iterations` + 1 backwards through the network ("diagonal": 2), none at t = 0,
        where the covariance is 0 / 0; the operator is cheap beside them
Paper   1000 ancestral or Euler-Maruyama steps, here Euler steps of the posterior's flow; with few steps `renoise` overshoots
        near the source. The paper solves with the whole matrix, row by row; here by conjugate gradients, of which a few
        suffice, and fewer than it takes only pull less. A network's J is nearly symmetric only: J^T is used for J
        throughout. "diagonal" is the paper's for pictures: the matrix is replaced by its row sums (not below std^2).

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.tmpd(flow, y, flow.source(noise), flow.times(20)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..entry import Whole, checked
from ..flow import Flow
from ..grad import twice
from ..measure import Measurement, conjugate_gradient
from ..path import Ends, at, tilted
from ..rng import Noise
from ..shapes import State, Time, Times
from ..step import Step
from ..transition import Transition, euler


@checked
@torch.no_grad()
def tmpd(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    covariance: Literal["full", "diagonal"] = "full",
    iterations: Whole = 4,
    transition: Transition = euler,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """TMPD: Tweedie moment projected diffusions. Boys et al. 2023, arXiv:2310.06721.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        covariance: covariance of the measurement given x_s: the `full` matrix, or its row sums as a `diagonal`.
        iterations: how many iterations of conjugate gradients solve with the full matrix at most.
        transition: how the state moves, such as `euler`, `ancestral` or `renoise` (one evaluation); random moves need `noise`.

    Yields steps with info["residual"], |A clean - y|, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends, residual, pull = _pull(flow, y, x, s, covariance, iterations)
        x = transition(flow, x.detach(), s, t, noise, tilted(flow.path, ends, pull, s))
        yield Step(i, total, t, x, ends.clean, {"residual": residual})


@twice()
def _pull(
    flow: Flow, y: Measurement, x: State, s: Time, covariance: str, iterations: int
) -> tuple[Ends, Tensor, Tensor]:
    """The ends, |A clean - y| `(b,)` and the pull; a function of its own, so that the graph is gone when it returns."""
    c = at(flow.path, s, x)
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        ends = flow.ends(z, s)
        clean = ends.clean.detach().requires_grad_()
        residual = y.residual(flow.decode(clean))
        seed = torch.zeros_like(residual).requires_grad_()
        (pulled,) = torch.autograd.grad(residual, clean, seed, create_graph=True)  # B^T seed, so its vjp is B

    def back(u: Tensor) -> Tensor:
        """J^T B^T u."""
        (u,) = torch.autograd.grad(residual, clean, u, retain_graph=True)
        return torch.autograd.grad(ends.clean, z, u, retain_graph=True)[0]

    def apply(u: Tensor) -> Tensor:
        """(B C B^T + std^2) u."""
        (spread,) = torch.autograd.grad(pulled, seed, back(u), retain_graph=True)
        return c.sigma**2 / c.alpha * spread + y.std**2 * u

    misfit = residual.detach()
    if c.alpha == 0:
        pull = torch.zeros_like(z)
    elif covariance == "full":
        pull = back(conjugate_gradient(apply, -misfit, 1e-6, iterations))
    else:
        pull = back(-misfit / apply(torch.ones_like(misfit)).clamp(min=y.std**2))
    return ends.detach(), misfit.flatten(1).norm(dim=1), pull.detach()
