"""Advantages: how much better a picture is than others of its group, the same prompt or class."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .together import gathered

Spread = Literal["batch", "group"]


def advantages(value: Tensor, group: int, spread: Spread = "batch") -> tuple[Tensor, Tensor]:
    """(reward - mean of its group) / (standard deviation + 1e-4), clipped to [-5, 5], and the share of groups without any difference.

    Args:
        value: rewards `(b,)`; rows of a group stand together. group: rows of one, at least 2.
        spread: whose deviation it is divided by: of the whole batch (the released code of Flow-GRPO), or of the group (its paper), where
            a difference of 1e-3 counts as fully as one of 1 does in another group.

    Returns:
        `(b,)` as the rewards, computed in float64, 0 in groups of equal rewards, which teach nothing; and that share, 0-dim.

    Raises:
        ValueError: a batch that is no multiple of the group, or a group of one.
    """
    if group < 2 or len(value) % group:
        raise ValueError(
            f"advantages: expected groups of at least 2 rows that divide the batch, got groups of {group} in {len(value)} rows; "
            "choose another `group`"
        )
    groups = value.detach().double().cpu().view(-1, group)
    every = gathered(groups)
    centred = groups - groups.mean(1, keepdim=True)
    deviation = groups.std(1, correction=0, keepdim=True) if spread == "group" else every.std(correction=0)
    flat = (every.amax(1) == every.amin(1)).double().mean()
    return (centred / (deviation + 1e-4)).clamp(-5, 5).flatten().to(value), flat


def shared(value: Tensor, group: int, spread: Spread = "batch") -> tuple[Tensor, Tensor]:
    """The advantages as probabilities of being good, A / 10 + 1/2 within [0, 1] (DiffusionNFT), and the share of groups without any."""
    gain, flat = advantages(value, group, spread)
    return (gain / 10 + 0.5).clamp(0, 1), flat


__all__ = ["Spread", "advantages", "shared"]
