"""Rewards of pictures as they are saved: clamped, in colour; and functions of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ...rewards import differentiable, rows_of
from ...step import Reward
from ..errors import BadInput, first_line


@dataclass(frozen=True, eq=False)
class Edited:
    reward: Reward

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def rows(self, index: Tensor, total: int) -> Self:
        return replace(self, reward=rows_of(self.reward, index, total))


@dataclass(frozen=True, eq=False)
class Own(Edited):
    """A function of the user's: `(b, c, h, w)` in [-1, 1] -> `(b,)`."""

    name: str

    def __call__(self, image: Tensor) -> Tensor:
        try:
            score = self.reward(image)
        except Exception as error:
            raise BadInput(f"{self.name} fails ({type(error).__name__}: {first_line(error)})") from error
        if not isinstance(score, Tensor) or score.shape != image.shape[:1]:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise BadInput(f"{self.name}: expected a tensor of one number per picture, ({len(image)},), got {got}")
        return score


@dataclass(frozen=True, eq=False)
class Coloured(Edited):
    """A reward of pictures with three channels, given grey ones too."""

    def __call__(self, image: Tensor) -> Tensor:
        return self.reward(image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image)


@dataclass(frozen=True, eq=False)
class Saved(Edited):
    """A reward of what a file would hold: clamped to [-1, 1]. Under gradient it is not: outside, a gradient would end."""

    seen: Callable[[Tensor, Tensor], object] | None = None  # told every batch with its scores

    def __call__(self, image: Tensor) -> Tensor:
        score = self.reward(image if image.requires_grad else image.clamp(-1, 1))
        if self.seen is not None:
            self.seen(image, score)
        return score
