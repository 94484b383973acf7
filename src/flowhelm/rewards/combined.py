"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from ..step import Reward, Step
from .rows import differentiable, rows_of


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

    def __call__(self, image: Image) -> PerSample:
        total = image.new_zeros(len(image))
        for weight, reward in self.parts:
            total = total + weight * reward(image)
        return total

    @property
    def differentiable(self) -> bool:
        """Whether all of its parts are."""
        return all(differentiable(reward) for _, reward in self.parts)

    def rows(self, index: Tensor, total: int) -> Self:
        """The same sum for some rows of a batch of `total`."""
        return type(self)([(weight, rows_of(reward, index, total)) for weight, reward in self.parts])


def each(rewards: Mapping[str, Reward], image: Image) -> dict[str, Tensor]:
    """Every reward by name, `(b,)` each: what is reported beside the one that is optimised."""
    return {name: reward(image) for name, reward in rewards.items()}


@dataclass(eq=False)
class Report:
    """Scores of the estimates along a run, by rewards that may not be the one optimised: `run(steps, report)`.

    Args:
        rewards: by name. One that was held out tells whether the optimised one is being fooled.
        decode: state -> picture, `flow.decode` for a latent flow.
        every: how many steps apart; the last step is always scored.

    Attributes:
        lines: one `{"index", "t", name: (b,) ...}` for each step scored, scores on the CPU.

    For any other loop: `report.add(picture, update.index)`.
    """

    rewards: Mapping[str, Reward]
    decode: Callable[[Tensor], Tensor] | None = None
    every: int = 1
    lines: list[dict[str, float | Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every < 1 or {"index", "t"} & set(self.rewards):
            raise ValueError(
                f"Report: expected every >= 1 and rewards that are not called index or t, got {self.every} and {list(self.rewards)}"
            )

    def __call__(self, step: Step) -> None:
        if step.index % self.every == 0 or step.index == step.total:
            self.add(step.clean, step.index, float(step.t))

    @torch.no_grad()
    def add(self, state: Tensor, index: int, t: float = 1.0) -> dict[str, float | Tensor]:
        """Scores a state now."""
        image = state if self.decode is None else self.decode(state)
        line: dict[str, float | Tensor] = {"index": index, "t": t}
        line |= {name: score.detach().cpu() for name, score in each(self.rewards, image).items()}
        self.lines.append(line)
        return line
