"""Fixed micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow import Flow, Wrapped


@dataclass(frozen=True, eq=False)
class Chunked(Wrapped):
    flow: Flow
    size: int

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        parts = []
        for first in range(0, len(x), self.size):
            rows = x[first : first + self.size]
            when = t if t.ndim == 0 else t[first : first + self.size]
            missing = self.size - len(rows)
            if missing:  # the last chunk is filled up, so that a compiled network sees one shape only
                rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
                when = when if t.ndim == 0 else torch.cat([when, when[-1:].expand(missing)])
            parts.append(self.flow.velocity(rows, when)[: self.size - missing])
        return torch.cat(parts)


def chunked(flow: Flow, size: int) -> Flow:
    """Evaluates at most (and always exactly) `size` rows at a time: bounds memory and pins the compiled shape.

    For flows without per-row conditions: a chunk does not know which rows of the batch it holds.
    """
    if size < 1:
        raise ValueError(f"chunked: expected a size of at least 1, got {size}")
    return Chunked(flow, size)
