"""D-Flow: differentiating through flows for controlled generation. Ben-Hamu et al. 2024, arXiv:2402.14017, Alg. 1.

Only the source is chosen; the flow stays what it is:

    z <- sqrt(blend) invert(A^T y) + sqrt(1 - blend) x
    z <- argmin  -reward(decode(T(z))) + weight R(z),     T: the sampler from t = 0 to 1
    R =  |z|^2 / 2 - (d - 1) log |z|   ("chi": the norm of normal noise)   or   |z|^2 / 2   ("normal": its density)

With "normal" and weight 1 this is the most probable source given the measurement; its end is the posterior mean if the prior
is normal.

Needs   a differentiable reward; a grid from 0 to 1; a linear measurement if blend > 0
Cost    I iterations of N steps, M inner evaluations of the cost: I (M (2 N - 1) + N) evaluations (N - 1 of each pass are
        recomputed to save memory), I M N backwards; twice that with midpoint; 3 N more for blend > 0.
        Memory: the states of N steps, the activations of one.
Paper   Midpoint, 5 to 6 steps (transition=midpoint), weight 1e-3 beside |A z - y|^2, so 5e-4 / std^2 here (0.2 at std 0.05; the
        default here is 1, with "normal" the posterior's mode); blend 0.1; L-BFGS with strong Wolfe, 20 inner iterations, 3 to
        20 outer. Deviations: L-BFGS per row with backtracking (`inner.lbfgs`, its memory is empty at each
        outer iteration); Euler unless told otherwise; blend 0, because a plain
        reward has no A^T y; the inversion is by 3 fixed-point iterations per Euler step instead of an adaptive solver.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.d_flow(flow, rewards.brightness, flow.source(noise), flow.times(4), iterations=1))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch

from ..adjoint import end
from ..control import check
from ..entry import Count, Fraction, NonNegative, checked
from ..flow import Flow
from ..grad import differentiable, dot
from ..inner import Inner, lbfgs
from ..measure import LinearOperator, Measurement
from ..rng import Noise
from ..shapes import PerSample, State, Times
from ..solve import invert
from ..step import Reward, Step, run
from ..transition import Transition, euler


@checked
@torch.no_grad()
def d_flow(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    weight: NonNegative = 1.0,
    regulariser: Literal["chi", "normal"] = "chi",
    iterations: Count = 5,
    inner: Inner = lbfgs,
    transition: Transition = euler,
    blend: Fraction = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """D-Flow: differentiating through flows for controlled generation. Ben-Hamu et al. 2024, arXiv:2402.14017, Alg. 1.

    Args:
        x: the source `(b, *shape)`.
        times: the grid from 0 to 1.
        weight: of the regulariser against the reward (for a measurement its log-likelihood).
        regulariser: `chi` keeps the norm of z where that of noise is, `normal` pulls z to 0.
        iterations: calls of the inner solver, each from the last z.
        inner: how z is improved.
        transition: one step of T, `euler`, `midpoint`, `heun` or `rk4`; random ones are refused.
        blend: share of the source that the inverted A^T y gives; for linear measurements.

    Yields one step per iteration: t = times[-1], x = clean = T(z); info["objective"] and info["norm"], |z| / sqrt(d), `(b,)`.

    Raises:
        ValueError: another path, a grid that is not from 0 to 1, a blend that there is nothing for.
    """
    check(flow, times, "d_flow")
    if times[0] != 0:
        raise ValueError(f"d_flow: expected times from 0, got a start at t = {float(times[0]):g}; give the whole grid")
    z = _blended(flow, reward, x, times, blend) if blend else x.detach()

    def price(z: State) -> PerSample:
        square = dot(z, z)
        return weight * (square / 2 - ((z[0].numel() - 1) / 2 * square.log() if regulariser == "chi" else 0))

    def cost(z: State) -> PerSample:
        return price(z) - differentiable(reward(flow.decode(end(flow, z, times, transition))), z)

    for i in range(1, iterations + 1):
        z = inner(cost, z, None)
        clean = end(flow, z, times, transition)
        info = {"objective": price(z) - reward(flow.decode(clean)), "norm": z.square().flatten(1).mean(1).sqrt()}
        yield Step(i, iterations, times[-1], clean, clean, info)


def _blended(flow: Flow, reward: Reward, x: State, times: Times, blend: float) -> State:
    """sqrt(blend) of the source that the flow carries to A^T y, the rest from x."""
    if not (isinstance(reward, Measurement) and isinstance(reward.operator, LinearOperator)):
        raise ValueError(
            "d_flow: expected a measurement by a linear operator for blend > 0, whose A^T y is inverted; set blend=0"
        )
    found = run(invert(flow, flow.encode(reward.operator.A_adjoint(reward.y)), times, iterations=3)).x
    return math.sqrt(blend) * found + math.sqrt(1 - blend) * x
