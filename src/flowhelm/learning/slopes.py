"""Rewards of clean states and their gradients: checked, and held within what most rows of a batch have."""

from __future__ import annotations

import torch
from torch import Tensor

from ..flow import Flow
from ..grad import differentiable, per_row, value_and_grad
from ..shapes import State
from ..step import Diverged, Reward
from .together import anywhere, gathered


def slopes(flow: Flow, reward: Reward, clean: State) -> tuple[Tensor, Tensor]:
    """The reward `(b,)` of clean states `(b, *shape)` and its gradient in them, through the decoder; detached.

    Raises:
        ValueError: a reward without gradient. Diverged: one that is not finite for a row; see `judged`.
    """
    value, slope = value_and_grad(lambda z: differentiable(reward(flow.decode(z)), z), clean)
    return judged(value), slope


def judged(value: Tensor) -> Tensor:
    """The rewards of a batch `(b,)`, if all are finite.

    Raises:
        Diverged: names the rows whose reward is not; in every process, if it is so in one. Nothing has been learnt from the batch then.
    """
    rows = (~value.isfinite()).nonzero().flatten().tolist()
    if anywhere(bool(rows)):
        if not rows:
            raise Diverged("the reward of another process is not finite; that process says for which rows", None)
        shown = ", ".join(map(str, rows[:8])) + (" and more" if len(rows) > 8 else "")
        bad = float(value.detach()[rows[0]])
        raise Diverged(
            f"the reward is {bad} for row {shown} of {len(value)}; expected a finite number for every picture: mend the "
            "reward, or lower the rate if the pictures have gone wrong",
            None,
        )
    return value


def limits(slope: Tensor, quantile: float) -> Tensor:
    """What each row's slope is multiplied by, `(b, 1, ...)`, so that no norm is above that quantile of the batch's norms; 1 for none.

    VGG-Flow's remedy for the few pictures of a batch whose reward is steep; the quantile is that of this batch, not of the last one.
    """
    norms = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    if quantile >= 1:
        return per_row(torch.ones_like(norms), slope)
    bound = torch.quantile(gathered(norms).double(), quantile).to(norms)
    return per_row((bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1), slope)


@torch.no_grad()
def ended(flow: Flow, reward: Reward, clean: State) -> Tensor:
    """The rewards `(b,)` of the pictures at the end of a trajectory, without gradient; checked by `judged`."""
    return judged(reward(flow.decode(clean)).detach())
