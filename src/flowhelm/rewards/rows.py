"""Which row a reward's prompt, label or answer belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..step import Reward, rows_of


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


def differentiable(reward: Reward) -> bool:
    """Whether a gradient can be had of it: its attribute `differentiable`; a reward without one is taken to be."""
    return bool(getattr(reward, "differentiable", True))


__all__ = ["differentiable", "owners", "rows_of", "texts"]
