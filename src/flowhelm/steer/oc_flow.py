"""OC-Flow: optimal control of the whole trajectory. Wang, Cheng, Li, Yang & Liu 2025, arXiv:2410.18070, Alg. 1.

All controls u_0 ... u_{N-1} of the grid are improved together, along the adjoint p of the controlled path:

    x_{k+1} <- x_k + h_k (v(x_k, t_k) + u_k)                    from the same x each time
    p_N     <- -lambda grad reward(decode(x_N)),   p_k <- (I + h_k dv/dx)^T p_{k+1}
    u_k     <- beta u_k - rate p_{k+1},            beta = 1 - 2 rate

It settles at the minimum of int |u|^2 dt - lambda reward(decode(x_N)): the problem that MPC-Flow plans again and again.

Needs   a differentiable reward; a prior on the linear path (others: guide.on_path)
Cost    I iterations of N steps: 1 + (I + 1) (2 N - 3) evaluations, N - 2 of them in each pass recomputed to save memory, and
        (I + 1) (N - 1) backwards; with `inner`, which evaluates the cost M times: 1 + I (M (2 N - 3) + N - 1), I M (N - 1).
        Memory: the states and controls of N steps, the activations of one evaluation.
Paper   N = 100, 15 iterations, beta 0.995, rate 2.5: for the energy gamma/2 int |u|^2 beta is 1 - gamma rate, so these two are
        one strength, 2 / gamma = 1000 lambda here (gamma = 2). Not so here: after the first `rate`, each row's is Barzilai-Borwein's,
        halved where its cost rose (those controls are dropped); `inner` descends on the cost itself; x has no unpenalised shift.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.oc_flow(flow, rewards.brightness, flow.source(noise), flow.times(6), strength=0.5, iterations=3))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Gt, Le

from ..control import check, scale
from ..entry import Count, Positive, checked
from ..flow import Flow
from ..grad import differentiable, dot, per_row, value_and_grad
from ..inner import Inner, barzilai_borwein
from ..rng import Noise
from ..shapes import State, Times
from ..solve import rollout
from ..step import Reward, Step


@checked
@torch.no_grad()
def oc_flow(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    strength: Positive = 25.0,
    iterations: Count = 15,
    rate: Annotated[float, Gt(0), Le(0.5)] = 0.02,
    inner: Inner | None = None,
    recompute: bool = True,
    plan: torch.Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """OC-Flow: optimal control of the whole trajectory. Wang, Cheng, Li, Yang & Liu 2025, arXiv:2410.18070, Alg. 1.

    Args:
        x: state `(b, *shape)` at times[0]. times: the grid, ending at 1.
        strength: q = lambda / std^2 of a measurement, in 1 / [image unit]^2; for any other reward, its factor lambda.
        iterations: passes over the trajectory (with `inner`: calls of it).
        rate: of the first iteration; each row finds its own afterwards.
        inner: how the controls are found instead, for instance `lbfgs`; None for the paper's iteration.
        recompute: evaluate anew in the backward pass: the memory of one evaluation instead of N - 1.
        plan: controls `(b, N, *shape)` to start from (info["plan"] of an earlier run), zeros if not given.

    Yields one step per iteration: t = times[-1], x = clean = the end of the trajectory; info["energy"], int |u|^2, and
    info["objective"], the cost, both `(b,)`; info["plan"], the controls.

    Raises ValueError for another path, and for a grid that does not end at 1.
    """
    check(flow, times, "oc_flow")
    weight, h = scale(reward, strength), times.diff()
    lengths = h.to(x).view(-1, *(1,) * (x.ndim - 1))
    first, end = flow.velocity(x, times[0]), x

    def energy(u: torch.Tensor) -> torch.Tensor:
        return sum((b - a) * dot(u[:, k], u[:, k]) for k, (a, b) in enumerate(pairwise(times)))

    def cost(u: torch.Tensor) -> torch.Tensor:
        nonlocal end
        last = rollout(flow, x, times, u, first=first, checkpointed=recompute)
        end = last.detach()
        return energy(u) - weight * differentiable(reward(flow.decode(last)), u)

    u = x.new_zeros(len(x), len(h), *x.shape[1:]) if plan is None else plan
    if inner is None:
        value, gradient = value_and_grad(cost, u)
        rates, clean = torch.full_like(value, rate), end
    for i in range(1, iterations + 1):
        if inner is not None:
            u = inner(cost, u, None)
            value, clean = cost(u), end
        else:
            trial = u - per_row(rates, u) * gradient / lengths  # the gradient divided by h is 2 u + p
            new, slope = value_and_grad(cost, trial)
            better = new <= value
            moved = trial - u  # in the norm int |u|^2, where the gradient is divided by h
            found = barzilai_borwein(dot(moved, moved * lengths), dot(moved, slope - gradient), rates).clamp(max=0.5)
            rates = torch.where(better, found, rates / 2)
            keep = per_row(better, u) > 0
            u, gradient = torch.where(keep, trial, u), torch.where(keep, slope, gradient)
            value, clean = torch.where(better, new, value), torch.where(keep[:, 0], end, clean)
        yield Step(i, iterations, times[-1], clean, clean, {"energy": energy(u), "objective": value, "plan": u})
