"""Adjoints along kept states: what a change of each state would change at the end, one vector-Jacobian product a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..grad import vjp

Move = Callable[[Tensor, int], Tensor]
"""(state, index of the step) -> mean of the next state."""


def backwards(move: Move, states: Sequence[Tensor], end: Tensor) -> list[Tensor]:
    """a_N = end, a_k = (d move(x_k, k) / d x_k)^T a_{k+1}: as many as there are states, each shaped as they are.

    Without noise and with the moves of the ODE that is the adjoint of Pontryagin; with the mean of the *base* move along states of
    another policy it is the lean adjoint of adjoint matching. One evaluation and its backward per step, one at a time.
    """
    found = [end]
    for k in reversed(range(len(states) - 1)):
        found.append(vjp(lambda z, k=k: move(z, k), states[k], found[-1])[1])  # type: ignore[misc]
    return found[::-1]
