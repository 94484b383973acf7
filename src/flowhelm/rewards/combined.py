"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..step import Reward


@dataclass(frozen=True, eq=False)
class Combined:
    """The weighted sum of rewards.

    Args:
        parts: (weight, reward) pairs; a negative weight asks for less of it.
    """

    parts: Sequence[tuple[float, Reward]]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Combined: expected at least one (weight, reward) pair, got none")

    def __call__(self, image: Tensor) -> Tensor:
        total = image.new_zeros(len(image))
        for weight, reward in self.parts:
            total = total + weight * reward(image)
        return total


def each(rewards: Mapping[str, Reward], image: Tensor) -> dict[str, Tensor]:
    """Every reward by name, `(b,)` each: what is reported beside the one that is optimised."""
    return {name: reward(image) for name, reward in rewards.items()}
