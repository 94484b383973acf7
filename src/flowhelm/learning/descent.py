"""One step of an optimiser from losses that go backward one after another; bad ones never touch the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from ..step import Diverged, Update
from .together import average

Clip = Annotated[float, Gt(0), Le(math.inf)]
"""Greatest norm of a gradient; infinity for none."""


class Descent:
    """Gathers gradients, those of other processes too; each group of the optimiser (policy, value network) is clipped by itself.

    Args:
        clip: greatest norm of a group's gradient; infinity for none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip: float):
        self.optimizer, self.clip, self.parts = optimizer, clip, list[Tensor]()
        optimizer.zero_grad(set_to_none=True)

    def add(self, loss: Tensor) -> None:
        """A part of the loss, 0-dim; its graph is freed at once."""
        loss.backward()
        self.parts.append(loss.detach())

    def step(self, index: int, total: int) -> tuple[Tensor, Tensor]:
        """Moves the weights; returns the loss, the sum of its parts, and the norm of the gradient before clipping, both 0-dim.

        Raises:
            Diverged: loss or gradient is not finite. The weights are as before.
        """
        loss = torch.stack(self.parts).sum()
        average(
            [loss, *(w.grad for group in self.optimizer.param_groups for w in group["params"] if w.grad is not None)]
        )
        norms = [nn.utils.clip_grad_norm_(group["params"], self.clip) for group in self.optimizer.param_groups]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        self.parts.clear()
        if not (loss + norm).isfinite():
            self.optimizer.zero_grad(set_to_none=True)
            raise Diverged(
                f"the loss is not finite at update {index} of {total}; lower the rate or the strength; the weights are as before it",
                None,
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def update(self, index: int, total: int, info: Mapping[str, Tensor]) -> Update:
        """`step`, as what a method yields."""
        loss, norm = self.step(index, total)
        return Update(index, total, loss, {**{name: each.detach() for name, each in info.items()}, "norm": norm})
