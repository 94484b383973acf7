"""Which row a reward's prompt, label or answer belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..step import Reward


def owners(who: str, given: int, rows: int) -> Tensor:
    """Whose row each row of a batch is, `(rows,)`: of what was given, each serves as many rows as the next (its particles)."""
    if not rows or rows % given:
        raise ValueError(
            f"{who}: expected a multiple of the {given} given prompts, got a batch of {rows}; give one per row"
        )
    return torch.arange(rows) // (rows // given)


def texts(who: str, given: str | Sequence[str], what: str = "prompt") -> list[str]:
    """A text for all rows, or one each, as a list."""
    listed = [given] if isinstance(given, str) else list(given)
    if not listed or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{who}: expected a {what} or several, got {given!r}")
    return listed


def rows_of(reward: Reward, index: Tensor, total: int) -> Reward:
    """The reward of some rows, `index`, of a batch of `total`: what it has for each row goes with the row.

    By the reward's own `rows(index, total)`, if it has one; without it a reward treats every row alike.
    """
    own = getattr(reward, "rows", None)
    return reward if own is None else own(index, total)


def differentiable(reward: Reward) -> bool:
    """Whether a gradient can be had of it: its attribute `differentiable`; a reward without one is taken to be."""
    return bool(getattr(reward, "differentiable", True))
