"""Many moves: a transition made a sampler, a differentiable rollout, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .flow import Flow
from .path import Ends, velocity
from .rng import Noise
from .step import Step
from .transition import Transition, euler


@torch.no_grad()
def integrate(
    flow: Flow, x: Tensor, times: Tensor, *, transition: Transition = euler, noise: Noise | None = None
) -> Iterator[Step]:
    """Samples the prior: one transition after another along the grid.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        transition: `euler`, `midpoint`, `heun`, `ancestral`, ... (fix its options with functools.partial).

    Evaluations: those of the transition, per step. The ends at the start of a step are computed once and handed on.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends: Ends = flow.ends(x, s)
        x = transition(flow, x, s, t, noise, ends)
        yield Step(i, total, t, x, ends.clean, {})


def look(flow: Flow, x: Tensor, t: Tensor) -> Ends:
    """The ends at x: what a reward looks ahead with. Where sigma = 0, as at t = 1, the state is clean and no network is asked."""
    if (flow.path(t.double()).sigma == 0).all():
        return Ends(torch.zeros_like(x), x)
    return flow.ends(x, t)


def rollout(
    flow: Flow,
    x: Tensor,
    times: Tensor,
    controls: Tensor | None = None,
    *,
    first: Tensor | None = None,
    checkpointed: bool = True,
) -> Tensor:
    """The end of a controlled Euler path, differentiable in x and in the controls.

        x <- x + (t_{k+1} - t_k) (v(x, t_k) + u_k)

    Args:
        controls: `(b, k, *shape)`, one per step of the grid, added to the velocity; None for none.
        first: v(x, times[0]) if it is known already; it is taken as a constant, and one evaluation is saved.
        checkpointed: recompute each evaluation in the backward pass, so that memory holds the states of all steps but
            the activations of one evaluation only (twice the forward evaluations).

    Returns:
        The state at times[-1], `(b, *shape)`. This is the gradient of the discrete sampler itself, not of a continuous adjoint.
    """
    for k, (s, t) in enumerate(pairwise(times)):
        if k == 0 and first is not None:
            v = first
        elif checkpointed and torch.is_grad_enabled() and k + 2 < len(times):  # the last evaluation is used at once
            v = checkpoint(flow.velocity, x, s, use_reentrant=False, preserve_rng_state=False)
        else:
            v = flow.velocity(x, s)
        x = x + (t - s) * (v if controls is None else v + controls[:, k])
    return x


@torch.no_grad()
def invert(flow: Flow, x: Tensor, times: Tensor, *, iterations: int = 5) -> Iterator[Step]:
    """The way back: the state at times[0] from which `integrate` with Euler steps reaches x at times[-1].

    Each step solves x_s = x_t - h v(x_s, s) by fixed-point iterations from x_s = x_t (Pan et al. 2023, arXiv:2309.10727;
    Garibi et al. 2024, arXiv:2403.14602). iterations = 1 is the plain reversed Euler step; the fixed point is
    the exact inverse where h |dv/dx| < 1. `iterations` evaluations per step. The grid is given as for sampling.
    """
    total = len(times) - 1
    for i, (t, s) in enumerate(pairwise(times.flip(0)), 1):
        guess = x
        for _ in range(iterations):
            ends = flow.ends(guess, s)
            guess = x - (t - s) * velocity(flow.path, ends, s)
        x = guess
        yield Step(i, total, s, x, ends.clean, {})
