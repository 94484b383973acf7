"""Training data as a function of the batch's number: where a run stands in its data is one integer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..learning.batches import Batch, Data
from ..rng import digest


def seeded(seed: int, index: int, device: torch.device | str = "cpu", *, purpose: str = "") -> torch.Generator:
    """A generator for one batch or step of a run, independent of those of other seeds, indices and purposes.

    The seed is a hash of all three: torch's generator on the CPU looks at the low 32 bits of a seed only.
    """
    return torch.Generator(device).manual_seed(digest(seed, (purpose, index)))


def shuffled(clean: Tensor, *condition: Tensor, batch: int, seed: int = 0, flip: bool = False) -> Data:
    """Epochs over tensors that fit in memory, each in an order of its own; a last incomplete batch is left out.

    Args:
        clean: `(n, ...)`, uint8 (0..255, brought to [-1, 1]) or floating point, which is left as it is.
        condition: each `(n, ...)`.
        batch: rows in a batch. seed: of the orders and of the mirroring.
        flip: mirror each row left to right with probability 1/2; for pictures `(n, c, h, w)`.

    Raises:
        ValueError: fewer rows than a batch has, or conditions of another number of rows.
    """
    if not 1 <= batch <= len(clean):
        raise ValueError(f"shuffled: expected a batch of 1 to {len(clean)} rows, got {batch}")
    if any(len(c) != len(clean) for c in condition):
        raise ValueError(f"shuffled: expected conditions of {len(clean)} rows, got {[len(c) for c in condition]}")
    per_epoch = len(clean) // batch
    order: dict[int, Tensor] = {}  # of the current epoch only

    def data(index: int) -> Batch:
        epoch, position = divmod(index, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = torch.randperm(len(clean), generator=seeded(seed, epoch, purpose="order"))
        rows = order[epoch][position * batch : (position + 1) * batch]
        x = clean[rows]
        x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
        if flip:
            mirrored = torch.rand(batch, generator=seeded(seed, index, purpose="flip")) < 0.5
            x = torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        return Batch(x, tuple(c[rows] for c in condition))

    return data


__all__ = ["Batch", "Data", "seeded", "shuffled"]
