"""MPC-Flow with a horizon of one step. Webber, Denker, Barbano & Reader 2026, arXiv:2601.23231, Alg. 2 and Eq. (9).

One control is planned for the next step only, against the cost-to-go V from where it leads; V is unknown, and its
surrogate asks for the reward of the clean estimate there:

    x+    <- x + h (v + u)
    u     <- argmin  w |u|^2 + V(x+, t+h),     V(x, t) = -lambda reward(decode(E[clean | x_t = x]))
    x     <- x + h (v + u)

Needs   a differentiable reward; a prior on the linear path (others: guide.on_path)
Cost    N steps, M inner evaluations of the cost: N (1 + M) - M evaluations, (N - 1) M backwards
Paper   N = 100 and M = 20 Adam iterations at rate 0.1, energy `algorithm2` with lambda 0.5 to 15 over std^2; `integral`
        at q = lambda / (N std^2) is the same problem. The surrogate ignores that later steps will correct too, so it
        over-controls at large strength. `curvature` is not in the paper: for a reward that is a measurement it
        replaces the reward of the clean estimate by its Moreau envelope over what the remaining control can still
        change, V_c = min_d q/2 |A (clean + d) - y|^2 + |d|^2 / w(t), with
        w(t) = sqrt(s) (atan(sqrt s) - atan(((s+1) t - 1) / sqrt s)), the controllability of N(0, s I).

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.mpc_flow_dt(flow, rewards.brightness, flow.source(noise), flow.times(8), strength=0.5))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..control import Energy, check, integral, scale
from ..entry import Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..horizon import Value, next_problem, surrogate
from ..inner import Inner, auto
from ..path import ends_from_velocity, linear
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Step
from ..transition import renoise as renoised


@checked
@torch.no_grad()
def mpc_flow_dt(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    strength: Positive = 2.5,
    inner: Inner = auto,
    energy: Energy = integral,
    curvature: NonNegative = 0.0,
    value: Value | None = None,
    renoise: Fraction = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """MPC-Flow with a horizon of one step. Webber, Denker, Barbano & Reader 2026, arXiv:2601.23231, Alg. 2 and Eq. (9).

    Args:
        x: state `(b, *shape)` at times[0].
        times: the grid, ending at 1.
        strength: q = lambda / std^2 of a measurement, in 1 / [image unit]^2; for any other reward, its factor lambda.
        inner: how the control is found, from zero each time.
        energy: what a control costs.
        curvature: variance s of the data for the corrected surrogate (1 is a fair choice for any picture); 0 for the paper's.
        value: another cost-to-go V(x, t) instead of the surrogates, in units where a control costs its energy; t = 1 included.
        renoise: fraction of the source that is drawn anew after each step; needs `noise`.

    Yields steps with info["energy"], the |u|^2 applied, `(b,)`.

    Raises:
        ValueError: another path, a grid that does not end at 1, curvature for anything but a linear measurement on pixels.
    """
    check(flow, times, "mpc_flow_dt")
    total, weight = len(times) - 1, scale(reward, strength)
    closes = solvable(flow, reward)
    if curvature and not closes:
        raise ValueError(
            "mpc_flow_dt: expected a linear measurement on a pixel prior for curvature > 0; set curvature=0"
        )
    ahead = value or surrogate(flow, reward, weight, curvature)
    for i, (t, s) in enumerate(pairwise(times), 1):
        v = flow.velocity(x, t)
        cost, closed = next_problem(reward, x, t, s - t, v, weight, energy, ahead)
        u = inner(cost, torch.zeros_like(x), closed if s == 1 and closes and value is None else None)
        ends = ends_from_velocity(linear, v + u, x, t)
        x = renoised(flow, x, t, s, noise, ends, amount=renoise)
        yield Step(i, total, s, x, ends.clean, {"energy": u.square().flatten(1).sum(1)})
