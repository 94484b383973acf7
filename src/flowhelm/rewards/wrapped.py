"""Edits of a reward: Reward -> Reward. They compose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..shapes import Image, PerSample
from ..step import Reward
from .rows import differentiable, rows_of


@dataclass(frozen=True, eq=False)
class Chunked:
    reward: Reward
    size: int

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def __call__(self, image: Image) -> PerSample:
        total, scores = len(image), []
        for first in range(0, total, self.size):
            index = torch.arange(first, min(first + self.size, total))
            part, rows = rows_of(self.reward, index, total), image[first : first + self.size]
            if total > self.size and torch.is_grad_enabled() and rows.requires_grad:
                # kept graphs of all chunks would be as large as one of the batch
                scores.append(checkpoint(part, rows, use_reentrant=False))
            else:
                scores.append(part(rows))
        return torch.cat(scores)

    def rows(self, index: Tensor, total: int) -> Self:
        return type(self)(rows_of(self.reward, index, total), self.size)


def chunked(reward: Reward, size: int) -> Chunked:
    """The same reward, of at most `size` rows at a time: bounds memory. flowhelm's own.

    What belongs to a row (its prompt) goes with it if the reward has `rows(index, total)`, as all of this package that are told
    something per row have. Under gradient a chunk is computed again in the backward pass, so that one is in memory at a time.
    """
    if size < 1:
        raise ValueError(f"chunked: expected a size of at least 1, got {size}")
    return Chunked(reward, size)


@dataclass(frozen=True, eq=False)
class On:
    reward: Reward
    device: torch.device

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def __call__(self, image: Image) -> PerSample:
        return self.reward(image.to(self.device)).to(image.device)

    def rows(self, index: Tensor, total: int) -> Self:
        return type(self)(rows_of(self.reward, index, total), self.device)


def on(reward: Reward, device: str | torch.device) -> On:
    """The same reward, on another device: the picture goes there and the score comes back, and so does the gradient. flowhelm's own.

    The reward must be there already. Those of models that this package loads need it not: they go to their model by themselves.
    """
    return On(reward, torch.device(device))


@dataclass
class Count:
    """What a reward was asked so far.

    Attributes:
        calls: batches; pictures: rows of them; backward: calls that were differentiated.
    """

    calls: int = 0
    pictures: int = 0
    backward: int = 0


@dataclass(frozen=True, eq=False)
class Counted:
    reward: Reward
    count: Count = field(default_factory=Count)

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def __call__(self, image: Image) -> PerSample:
        self.count.calls += 1
        self.count.pictures += len(image)
        score = self.reward(image)
        if score.requires_grad:
            score.register_hook(self._differentiated)
        return score

    def _differentiated(self, gradient: Tensor) -> None:
        self.count.backward += 1

    def rows(self, index: Tensor, total: int) -> Self:
        return type(self)(rows_of(self.reward, index, total), self.count)


def counted(reward: Reward) -> Counted:
    """The same reward with a tally, `.count`: calls, pictures, calls differentiated. flowhelm's own.

    Inside `chunked` the chunks are calls, and what is computed again for a gradient counts again.
    """
    return Counted(reward)
