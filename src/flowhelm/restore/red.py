"""RED: regularisation by denoising, fixed-point iteration. Romano, Elad & Milanfar 2017, arXiv:1611.02862, section 4.2.

    clean <- E[clean | x_t = alpha_t x]
    x     <- argmin_z |A decode(z) - y|^2 / (2 std^2) + weight |z - clean|^2 / (2 r^2),   r = sigma_t / alpha_t

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Start   the degraded picture with its holes filled, and noise levels r evenly spaced in their logarithm
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   One level, 3/255 to 4.1/255 of the range from black to white, for 200 steps, lam 0.008 to 0.02 (pictures in 0 to 255) in
        the place of weight / r^2; these are of the authors' code. Here the level falls along the grid, as in `hqs`, whose two
        moves these are in the other order: the result fits the measurement last, and keeps its noise where `hqs` ends with the
        denoiser. Decoders are not in the paper.

Example

    from flowhelm import Noise, begin, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.deblur(flow.shape, border="circular"), picture, 0.05, noise)
    final = run(restore.red(flow, y, *begin(restore.red, flow, y, 8, noise)))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

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
def red(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive = 1.0,
    inner: Inner = auto,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """RED: regularisation by denoising, fixed-point iteration. Romano, Elad & Milanfar 2017, arXiv:1611.02862.

    Args:
        x: the estimate `(b, *shape)` to start from. times: the grid; the last of it is only where the result is.
        weight: trust in the prior's estimate; the larger it is, the nearer the result stays to the estimate.
        inner: solver for the fitted estimate, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).

    Yields steps whose x and clean are the fitted estimate; info["misfit"], 1/2 |A clean - y|^2 of the denoised one, `(b,)`.
    """
    total = len(times) - 1
    for i, t in enumerate(times[:-1], 1):
        c = at(flow.path, t, x)
        r = (c.sigma / c.alpha).clamp(max=100.0)
        clean = flow.ends(c.alpha * x, t).clean
        misfit = y.misfit(flow.decode(clean))
        x = refined(flow, y, clean, r**2 / weight, c.deviation, inner)
        yield Step(i, total, times[i], x, x, {"misfit": misfit})
