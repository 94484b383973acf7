"""Rewards of pictures as they are saved: clamped, in colour; and functions of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
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


def check_reward(rewards: Sequence[Reward], shape: Sequence[int], device: str, follows: str, remedy: str) -> None:
    """Scores two pictures of a shape, so that what is wrong with a reward is said before the long work.

    Args:
        rewards: the first is what is optimised.
        follows: "METHOD follows the gradient of the reward, and NAME", which begins the sentence; nothing if it needs none.

    Raises:
        BadInput: another shape than `(b,)`, or no gradient where one is needed; `remedy` ends the sentence.
    """
    ramp = torch.linspace(-0.9, 0.9, math.prod(shape), device=device).view(1, *shape)
    pictures = torch.cat([ramp, ramp.flip(-1)])
    with torch.no_grad():
        for each in rewards:
            if (found := tuple(each(pictures).shape)) != (2,):
                raise BadInput(f"--reward: expected one number per picture, got a tensor of shape {found}")
    if follows and not differentiable(rewards[0]):
        raise BadInput(f"{follows} has none; {remedy}")
    if follows:
        with torch.enable_grad():
            score = rewards[0](pictures.requires_grad_())
        if not score.requires_grad:
            raise BadInput(f"{follows} does not depend on it; {remedy}")
