"""PnP-Flow: plug-and-play with a flow's denoiser. Martin et al. 2025, arXiv:2410.02423, Alg. 3.

    z     <- clean - rate (1-t)^decay * grad 1/2 |A decode(clean) - y|^2
    clean <- mean over draws of E[clean | x_t = alpha_t z + sigma_t noise]

Needs   differentiable operator
Cost    `draws` evaluations per step, forward only; 1 backward through the operator (and decoder)
Paper   100 steps, 5 draws, decay 0.8 (denoise), 0.5 (box), 0.3 (super-resolution), 0.01 (deblur, random mask).
        The state is the clean estimate; at t = 0 it has no weight, so any x will do. The paper's step std^2 times the
        gradient of the log-likelihood is written without std.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.random_mask(flow.shape), picture, 0.05, noise)
    final = run(restore.pnp_flow(flow, y, flow.source(noise), flow.times(20), draws=2, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import value_and_grad
from ..measure import Measurement
from ..path import mix
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def pnp_flow(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    decay: NonNegative = 0.3,
    rate: NonNegative = 1.0,
    draws: Count = 1,
    noise: Noise,
) -> Iterator[Step]:
    """PnP-Flow: plug-and-play with a flow's denoiser. Martin et al. 2025, arXiv:2410.02423.

    Args:
        x: the clean estimate `(b, *shape)` to start from (without effect where times[0] = 0).
        times: the grid; the last of it, 1, is only where the result is.
        decay: how fast the gradient step (1-t)^decay shrinks; a small value fits the measurement for longer.
        rate: factor of the gradient step; take 1 where |A| = 1 (the paper's operators), else 1 / |A|^2 (4 for x2 averaging).
        draws: how many noise draws the denoiser is averaged over in each step.

    Yields steps whose x and clean are the clean estimate; info["misfit"], 1/2 |A clean - y|^2 before the step, `(b,)`.
    """
    total = len(times) - 1
    for i, t in enumerate(times[:-1], 1):
        misfit, gradient = value_and_grad(lambda clean: y.misfit(flow.decode(clean)), x)
        z = x - rate * (1 - t) ** decay * gradient
        x = torch.zeros_like(x)
        for _ in range(draws):
            x = x + flow.ends(mix(flow.path, noise(z), z, t), t).clean / draws
        yield Step(i, total, times[i], x, x, {"misfit": misfit})
