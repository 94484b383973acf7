"""DiffPIR: plug-and-play restoration with a diffusion denoiser. Zhu et al. 2023, arXiv:2305.08995, Alg. 1, eqs. (12) to (15).

    clean  <- E[clean | x_s],   r = sigma_s / alpha_s
    better <- argmin_z |A decode(z) - y|^2 / (2 std^2) + lam |z - clean|^2 / (2 r^2)
    source <- (x - alpha_s better) / sigma_s
    x      <- alpha_t better + sigma_t (sqrt(1 - zeta) source + sqrt(zeta) noise)

Needs   a linear measurement on a pixel prior (a prox), or any differentiable operator (`inner` minimises)
Cost    1 evaluation per step, forward only; the prox, or the inner solver's backwards through decoder and operator
Paper   100 steps, lam 1, zeta 0.1 (deblur) or 0.25 (super-resolution); 20 steps and zeta 1 (inpaint). PnP-Flow's
        benchmark of flows: zeta 1, lam 1 (denoise, random mask), 100 (super-resolution), 1000 (deblur).
        Its diffusion starts at r = 157; a flow starts at r = infinity, cut here at 100. Decoders are not in the paper.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.deblur(flow.shape, border="circular"), picture, 0.05, noise)
    final = run(restore.diffpir(flow, y, flow.source(noise), flow.times(20), zeta=0.3, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Fraction, Positive, checked
from ..flow import Flow
from ..inner import Inner, auto
from ..measure import Measurement
from ..path import at, ends_from_clean
from ..prox import refined
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import renoise


@checked
@torch.no_grad()
def diffpir(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    lam: Positive = 1.0,
    zeta: Fraction = 1.0,
    inner: Inner = auto,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DiffPIR: plug-and-play restoration with a diffusion denoiser. Zhu et al. 2023, arXiv:2305.08995.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        lam: trust in the prior's estimate; the larger it is, the nearer the result stays to the estimate.
        zeta: share of the source that is drawn anew after each step; a share above 0 needs `noise`.
        inner: solver for the refined estimate, see `flowhelm.inner`; its control is the displacement in units of
            sigma / sqrt(alpha^2 + sigma^2).

    Yields steps with info["misfit"], 1/2 |A clean - y|^2 before the refinement, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        clean = flow.ends(x, s).clean
        misfit = y.misfit(flow.decode(clean))
        c = at(flow.path, s, x)
        r = (c.sigma / c.alpha).clamp(max=100.0)
        better = refined(flow, y, clean, r**2 / lam, c.deviation, inner)
        x = renoise(flow, x, s, t, noise, ends_from_clean(flow.path, better, x, s), amount=zeta)
        yield Step(i, total, t, x, better, {"misfit": misfit})
