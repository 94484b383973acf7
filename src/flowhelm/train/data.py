"""Training data as a function of the batch's number: where a run stands in its data is one integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One batch: clean states `(b, ...)` and what the network is told about them, each `(b, ...)`."""

    clean: Tensor
    condition: tuple[Tensor, ...] = ()


Data = Callable[[int], Batch]
"""Number of a batch, from 0 -> that batch, always the same one."""


def seeded(seed: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one batch or step of a run."""
    return torch.Generator(device).manual_seed((seed << 32) + index)


def shuffled(clean: Tensor, *condition: Tensor, batch: int, seed: int = 0, flip: bool = False) -> Data:
    """Epochs over tensors that fit in memory, each in an order of its own; a last incomplete batch is left out.

    Args:
        clean: `(n, c, h, w)`, uint8 (0..255, brought to [-1, 1]) or already floating point in [-1, 1].
        condition: each `(n, ...)`.
        batch: rows in a batch. flip: mirror half of the rows left to right.
    """
    if not 1 <= batch <= len(clean):
        raise ValueError(f"shuffled: expected a batch of 1 to {len(clean)} rows, got {batch}")
    per_epoch = len(clean) // batch
    order: dict[int, Tensor] = {}  # of the current epoch only

    def data(index: int) -> Batch:
        epoch, position = divmod(index, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = torch.randperm(len(clean), generator=seeded(seed, epoch))
        rows = order[epoch][position * batch : (position + 1) * batch]
        x = clean[rows]
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
        if flip:
            mirrored = torch.rand(batch, generator=seeded(seed + 1, index)) < 0.5
            x = torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        return Batch(x, tuple(c[rows] for c in condition))

    return data
