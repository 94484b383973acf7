"""MPC-Flow, receding horizon. Webber, Denker, Barbano & Reader 2026, arXiv:2601.23231, Alg. 1 (K planned steps) and Alg. 3 (K = 1).

At each time t a control u_0 ... u_{K-1} is planned up to t = 1, the first of it is applied for one step of the grid,
and the plan is made anew:

    z     <- x + sum_k h_k (v(z_k, t_k) + u_k)               the planned end
    plan  <- argmin  sum_k w_k |u_k|^2 - lambda reward(decode(z))
    x     <- x + h (v + u_0)

K = 1 plans with the clean estimate alone: the network is evaluated once per step and never differentiated, and for a
linear measurement the plan is a prox, clean' = prox(clean), u = (clean' - clean) / (1 - t).

Needs   a differentiable reward, or a linear measurement (K = 1: nothing is differentiated then);
        a prior on the linear path (others: guide.on_path)
Cost    N steps, M inner evaluations of the cost: N (1 + M (K-1)) evaluations, N M (K-1) backwards, in the memory of K - 1
        evaluations (with `recompute` of one, and K - 2 evaluations more per inner one); K = 1: N and none
Paper   N = 100, M = 20 Adam iterations at rate 0.1 (K = 1) or 0.05 (K = 3).
        Strength here is q = lambda / std^2 for a measurement, the weight of |A z - y|^2 / 2 against the energy
        int |u|^2: the paper's lambda (0.04 to 1) over its std^2. `inner=auto` solves the prox exactly; where there is
        none it takes L-BFGS, M at most 25, which ends as low as 200 iterations of Adam on the authors' toy (20 end 6 to 20 % above).
        `renoise` is not in the paper: a fraction of the source estimate is replaced by fresh noise after each step, which restores
        what a prox leaves untouched (masked or decimated pixels).

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.mpc_flow(flow, rewards.brightness, flow.source(noise), flow.times(8), strength=0.5, horizon=2))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..control import Energy, check, integral, scale
from ..entry import Count, Fraction, Positive, checked
from ..flow import Flow
from ..grids import uniform
from ..horizon import problem, shifted, solution
from ..inner import Inner, auto
from ..path import ends_from_velocity, linear
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Step
from ..transition import renoise as renoised


@checked
@torch.no_grad()
def mpc_flow(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    strength: Positive = 25.0,
    horizon: Count | None = 1,
    inner: Inner = auto,
    energy: Energy = integral,
    unit: Literal["velocity", "displacement"] = "velocity",
    renoise: Fraction = 0.0,
    recompute: bool = False,
    plan: Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """MPC-Flow, receding horizon. Webber, Denker, Barbano & Reader 2026, arXiv:2601.23231.

    Args:
        x: state `(b, *shape)` at times[0].
        times: the executed grid, ending at 1.
        strength: q = lambda / std^2 of a measurement, in 1 / [image unit]^2; for any other reward, its factor lambda.
        horizon: K, planned steps, evenly spaced from t to 1; None for the rest of `times` itself (optimal control, re-planned).
        inner: how a plan is found; it starts from the last plan, shifted.
        energy: what a control costs.
        unit: of the inner solver's variable, and so of its rate: u itself, or the displacement h u by which a control moves
            the planned end, the variable of the released FLUX.2 code.
        renoise: fraction of the source that is drawn anew after each step; needs `noise`.
        recompute: evaluate anew in the backward pass: the same plan in the memory of one evaluation instead of K - 1, 1.3 to 1.7
            times as long.
        plan: the last plan of an interrupted run (info["plan"] of its last step), to resume it exactly.

    Yields steps with info["energy"], the |u_0|^2 applied, `(b,)`, and for K > 1 info["plan"], `(b, K, *shape)`.

    Raises:
        ValueError: another path, a grid that does not end at 1.
    """
    check(flow, times, "mpc_flow")
    total, weight = len(times) - 1, scale(reward, strength)
    for i, (t, s) in enumerate(pairwise(times), 1):
        grid = times[i - 1 :] if horizon is None else uniform(horizon, float(t), 1.0)
        v = flow.velocity(x, t)
        cost, closed = problem(flow, reward, x, grid, v, weight, energy, recompute)
        h = grid.diff().to(x).view(1, -1, *(1,) * (x.ndim - 1)) if unit == "displacement" else 1.0
        plan = solution(inner, cost, closed, shifted(plan, x, len(grid) - 1), h)
        ends = ends_from_velocity(linear, v + plan[:, 0], x, t)
        x = renoised(flow, x, t, s, noise, ends, amount=renoise)  # renoise = 0: the Euler step x + h (v + u_0)
        info = {"energy": plan[:, 0].square().flatten(1).sum(1)}
        yield Step(i, total, s, x, ends.clean, info if len(grid) == 2 else info | {"plan": plan})
