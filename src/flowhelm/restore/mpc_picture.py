"""MPC-Flow from the degraded picture, a variant of K = 1 with few steps. After Webber et al. 2026, arXiv:2601.23231, Alg. 3.

    plan   <- argmin_z |A decode(z) - y|^2 / (2 std^2) + weight |z - clean|^2 / (2 r^2),   r = sigma_t / alpha_t
    shown  <- plan + kept (r / r') (shown' - clean)
    clean  <- E[clean | x_t = alpha_t shown]

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Start   the degraded picture with its holes filled, and noise levels r evenly spaced in their logarithm
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   Not in the paper, which begins at the source. In z = x_t / alpha_t the flow is dz / dr = (z - E[clean | z]) / r, and the controlled
        Euler step of `mpc_flow` with K = 1 from r' to r is z <- plan + (r / r') (z - clean): the planned end, and the old estimate of
        the source. Three changes: it begins at a picture, where what z differs from clean by is no noise of level r but what the
        picture lacks; levels are log-spaced, not times even; and of that difference only a fraction is `kept`. kept = 1 is the Euler step,
        kept = 0 is `hqs`, the first fit included. The price of the control is weight t^2 / 2 (`hqs` says why).
        For scattered missing pixels and few steps; on blur, noise and large holes `hqs` is the better one (docs/negative-results.md).

Example

    from flowhelm import Noise, begin, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.random_mask(flow.shape), picture, 0.05, noise)
    final = run(restore.mpc_picture(flow, y, *begin(restore.mpc_picture, flow, y, 8, noise)))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import Fraction, Positive, checked
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
def mpc_picture(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive = 0.23,
    kept: Fraction = 0.3,
    inner: Inner = auto,
    source: Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """MPC-Flow from the degraded picture, a variant of K = 1 with few steps. After Webber et al. 2026, arXiv:2601.23231, Alg. 3.

    Args:
        x: the clean estimate `(b, *shape)` to start from. times: the grid; the last of it is only where the result is.
        weight: trust in the prior's estimate; the larger it is, the nearer a plan stays to the estimate.
        kept: of the difference between what the network was shown and its estimate; 0 is `hqs`.
        inner: solver for the plan, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).
        source: info["source"] of an earlier step, to go on from; 0 if not given.

    Yields steps whose x and clean are the clean estimate; info["misfit"], 1/2 |A clean - y|^2 before the step, `(b,)`, and
    info["source"], the estimate of the source (shown - clean) / r, shaped as the state.
    """
    total = len(times) - 1
    source = torch.zeros_like(x) if source is None else source
    for i, t in enumerate(times[:-1], 1):
        misfit = y.misfit(flow.decode(x))
        c = at(flow.path, t, x)
        r = (c.sigma / c.alpha).clamp(max=100.0)
        plan = refined(flow, y, x, r**2 / weight, c.deviation, inner)
        shown = plan + kept * r * source
        x = flow.ends(c.alpha * shown, t).clean
        source = (shown - x) / r
        yield Step(i, total, times[i], x, x, {"misfit": misfit, "source": source})
