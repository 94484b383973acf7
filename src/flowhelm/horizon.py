"""Planning problems of MPC-Flow: what the controls of the steps ahead cost, and the controls that minimise it.

`problem` plans several steps up to t = 1, `next_problem` one step against a cost-to-go. Controls `(b, K, *shape)` are added to the
velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .control import Energy
from .flow import Flow
from .grad import differentiable
from .inner import Closed, Cost, Inner
from .prox import leeway, prox, solvable, solved
from .shapes import State, Time
from .solve import rollout
from .step import Reward

Value = Callable[[Tensor, Tensor], Tensor]
"""Cost-to-go V: state `(b, *shape)` and time -> `(b,)`."""


def problem(
    flow: Flow,
    reward: Reward,
    x: State,
    grid: Tensor,
    v: State,
    weight: float,
    energy: Energy,
    recompute: bool = False,
) -> tuple[Cost, Closed | None]:
    """The cost of controls `(b, K, *shape)` of the steps of `grid`, and its closed solution if it has one.

        sum_k w_k |u_k|^2 - weight reward(decode(end)),    w_k = energy(grid_k, h_k)

    Args:
        v: the velocity at the start of the grid.
        recompute: see `solve.rollout`.
    """
    lengths = grid.diff()
    prices = [energy(a, h) for a, h in zip(grid, lengths, strict=False)]

    def cost(u: Tensor) -> Tensor:
        end = rollout(flow, x, grid, u, first=v, checkpointed=recompute)
        spent = sum(w * u[:, k].square().flatten(1).sum(1) for k, w in enumerate(prices))
        return spent - weight * differentiable(reward(flow.decode(end)), u)

    def closed() -> Tensor:
        return solved(reward, x + lengths[0] * v, leeway(weight, prices[0], lengths[0]), lengths[0])[:, None]

    return cost, closed if len(prices) == 1 and solvable(flow, reward) else None


def solution(inner: Inner, cost: Cost, closed: Closed | None, start: Tensor, h: Tensor | float) -> Tensor:
    """The minimiser of cost, sought in the variable h u."""
    scaled = None if closed is None else lambda: h * closed()
    return inner(lambda d: cost(d / h), h * start, scaled) / h


def shifted(plan: Tensor | None, x: State, steps: int) -> Tensor:
    """Warm start: the last plan without the control that was applied, zeros behind it; zeros for K = 1."""
    start = x.new_zeros(len(x), steps, *x.shape[1:])
    if plan is not None:
        rest = plan[:, 1 : steps + 1]
        start[:, : rest.shape[1]] = rest
    return start


def next_problem(
    reward: Reward, x: State, t: Time, h: Tensor, v: State, weight: float, energy: Energy, ahead: Value
) -> tuple[Cost, Closed]:
    """Cost of one control `(b, *shape)` against the value ahead, and its minimiser for the step into t = 1, where that is the reward."""
    price = energy(t, h)

    def cost(u: Tensor) -> Tensor:
        return price * u.square().flatten(1).sum(1) + ahead(x + h * (v + u), t + h)

    def closed() -> Tensor:
        return solved(reward, x + h * v, leeway(weight, price, h), h)

    return cost, closed


def surrogate(flow: Flow, reward: Reward, weight: float, curvature: float) -> Value:
    """Cost-to-go by the clean estimate: its reward, or with `curvature` what the control that is left can make of it."""

    def value(x: State, t: Time) -> Tensor:
        clean = x if t >= 1 else flow.ends(x, t).clean  # no network at t = 1: the state is clean there
        reach = controllability(float(t), curvature) if curvature else 0.0
        if reach < 1e-8:
            return -weight * differentiable(reward(flow.decode(clean)), clean)
        # Envelope theorem: with the minimiser held fixed, the gradient in `clean` is that of the whole.
        with torch.no_grad():
            reached = prox(reward, clean, torch.tensor(weight * reach / 2, dtype=torch.float64))
        return -weight * reward(reached) + (reached - clean).square().flatten(1).sum(1) / reach

    return value


def controllability(t: float, s: float) -> float:
    """w(t; s) = int_t^1 s / (tau^2 s + (1-tau)^2) d tau: how far unit control moves the end of a flow of N(0, s I)."""
    root = math.sqrt(s)
    return root * (math.atan(root) - math.atan(((s + 1) * t - 1) / root))
