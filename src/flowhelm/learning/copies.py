"""A second set of the weights that are trained: an old policy, or their moving average. It costs those weights, no second network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor


class Copy:
    """The values that some weights had, to compute with again.

    Args:
        weights: the trained ones, such as `flow.net.parameters()` or an adapter's; what they are now is kept.

    Attributes:
        kept: the values, in that order. They are the whole state: save and restore them to go on exactly.
    """

    def __init__(self, weights: Iterable[Tensor]):
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.kept = [weight.detach().clone() for weight in self.weights]
        if not self.weights:
            raise ValueError("Copy: expected weights that are trained, got none that requires a gradient")

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Copy:
        """Of all that an optimiser trains."""
        return cls(chain.from_iterable(group["params"] for group in optimizer.param_groups))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the network has these weights. Evaluate under `torch.no_grad`, and let nothing go backward inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """kept <- keep kept + (1 - keep) weights."""
        torch._foreach_lerp_(self.kept, [weight.detach() for weight in self.weights], 1 - keep)

    def _swap(self) -> None:
        # by .data: a graph that is built of the weights already, and goes backward later, is left as it is
        for i, weight in enumerate(self.weights):
            weight.data, self.kept[i] = self.kept[i], weight.data
