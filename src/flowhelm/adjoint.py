"""Backwards along a whole trajectory: its end as a differentiable function, and adjoints in shared segments.

`solve.rollout` is the same for additive controls. A kick moves the state at the start of a step, z_k = x_k + kick_k.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .flow import Flow
from .grad import per_row, vjp
from .shapes import State, Times
from .transition import Transition


def end(flow: Flow, x: State, times: Times, transition: Transition) -> State:
    """The state at times[-1], differentiable in x; every step but the last is recomputed in the backward pass."""
    for k, (s, t) in enumerate(pairwise(times)):
        if torch.is_grad_enabled() and k + 2 < len(times):
            x = checkpoint(transition, flow, x, s, t, None, None, use_reentrant=False, preserve_rng_state=False)
        else:
            x = transition(flow, x, s, t, None, None)
    return x


def kicked(flow: Flow, x: State, times: Times, kicks: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The states after their kicks `(b, N, *shape)`, the velocities there, and the end; Euler steps."""
    states, velocities = [], []
    for k, (s, t) in enumerate(pairwise(times)):
        states.append(x + kicks[:, k])
        velocities.append(flow.velocity(states[-1], s))
        x = states[-1] + (t - s) * velocities[-1]
    return states, velocities, x


def segments(velocities: list[Tensor], skip: float) -> Tensor:
    """Where each row's segments begin: `(N, b)` bool. The first step always does; without `skip` every one.

    A step joins a segment while the sum of max(|v_{k-1} - v_k|, |v_{k+1} - v_k|)^2 / |v_k|^2 over it is below `skip`.
    """
    v = torch.stack(velocities)
    starts = torch.ones(v.shape[:2], dtype=torch.bool, device=v.device)
    if not skip or len(v) == 1:
        return starts
    jumps = v.diff(dim=0).square().flatten(2).sum(2)
    change = torch.cat([jumps[:1], torch.maximum(jumps[1:], jumps[:-1]), jumps[-1:]])
    change = change / v.square().flatten(2).sum(2).clamp(min=1e-30)
    spent = torch.zeros_like(change[0])
    for k in range(1, len(v)):
        spent = spent + change[k - 1]
        starts[k] = spent >= skip
        spent = torch.where(starts[k], 0, spent)
    return starts


def adjoint(flow: Flow, states: list[Tensor], times: Times, starts: Tensor, gradient: Tensor) -> Tensor:
    """d score / d kicks, `(b, N, *shape)`: one vector-Jacobian product per segment, whose kicks share it.

    Args:
        states: kicked, one per step; starts: of `segments`; gradient: of the score in the end.
    """
    a, rows = gradient, len(gradient)
    out, length = a.new_empty(rows, len(states), *a.shape[1:]), a.new_zeros(rows)
    for k in reversed(range(len(states))):
        length = length + (times[k + 1] - times[k])
        index = starts[k].nonzero()[:, 0]
        if len(index):
            part = flow if len(index) == rows else flow.rows(index, rows)
            _, product = vjp(lambda z, f=part, t=times[k]: f.velocity(z, t), states[k][index], a[index])  # type: ignore[misc]
            a = a.index_add(0, index, per_row(length[index], product) * product)
            length = torch.where(starts[k], 0, length)
        out[:, k] = a
    for k in range(1, len(states)):
        out[:, k] = torch.where(per_row(starts[k], a) > 0, out[:, k], out[:, k - 1])
    return out
