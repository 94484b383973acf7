"""PnP-ADMM: plug-and-play with multipliers. Venkatakrishnan et al. 2013; Chan, Wang & Elgendy 2016, arXiv:1605.01710.

    fitted <- argmin_z |A decode(z) - y|^2 / (2 std^2) + weight |z - (clean - dual)|^2 / (2 r^2),   r = sigma_t / alpha_t
    clean  <- E[clean | x_t = alpha_t (fitted + dual)]
    dual   <- dual + fitted - clean

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Start   the degraded picture with its holes filled, and noise levels r evenly spaced in their logarithm
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   Chan et al. let the level fall by a factor in each step, or where the iterates no longer move; here the grid says the
        levels, and weight is what they call rho in units of 1 / r^2. Without the dual it is `hqs`.
        Decoders and operators that are not linear are not in the papers.

Example

    from flowhelm import Noise, begin, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.deblur(flow.shape, border="circular"), picture, 0.05, noise)
    final = run(restore.pnp_admm(flow, y, *begin(restore.pnp_admm, flow, y, 8, noise)))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import Positive, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..measure import Measurement
from ..path import at
from ..prox import refined
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def pnp_admm(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive = 0.23,
    inner: Inner = auto,
    dual: Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """PnP-ADMM: plug-and-play with multipliers. Venkatakrishnan et al. 2013; Chan, Wang & Elgendy 2016, arXiv:1605.01710.

    Args:
        x: the clean estimate `(b, *shape)` to start from. times: the grid; the last of it is only where the result is.
        weight: trust in the prior's estimate; the larger it is, the nearer a step stays to the estimate.
        inner: solver for the fitted estimate, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).
        dual: info["dual"] of an earlier step, to go on from; 0 if not given.

    Yields steps whose x and clean are the clean estimate; info["misfit"], 1/2 |A clean - y|^2 before the step, `(b,)`, and
    info["dual"], shaped as the state.
    """
    total = len(times) - 1
    dual = torch.zeros_like(x) if dual is None else dual
    for i, t in enumerate(times[:-1], 1):
        misfit = y.misfit(flow.decode(x))
        c = at(flow.path, t, x)
        r = (c.sigma / c.alpha).clamp(max=100.0)
        fitted = refined(flow, y, x - dual, r**2 / weight, c.deviation, inner)
        x = flow.ends(c.alpha * (fitted + dual), t).clean
        dual = dual + fitted - x
        yield Step(i, total, times[i], x, x, {"misfit": misfit, "dual": dual})
