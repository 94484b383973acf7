"""Fixed micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..entry import Count, guarded
from ..flow import Flow, Wrapped
from ..shapes import State, Time


@dataclass(frozen=True, eq=False)
class Chunked(Wrapped):
    flow: Flow
    size: int

    def velocity(self, x: State, t: Time) -> State:
        parts = []
        for first in range(0, len(x), self.size):
            # the last chunk is filled up with its last row, so that a compiled network sees one shape only
            index = torch.arange(first, first + self.size).clamp(max=len(x) - 1)
            here = index.to(x.device)
            when = t if t.ndim == 0 else t[here]
            v = self.flow.rows(index, len(x)).velocity(x[here], when)
            parts.append(v[: len(x) - first])
        return torch.cat(parts)


@guarded
def chunked(flow: Flow, size: Count) -> Flow:
    """Evaluates at most (and always exactly) `size` rows at a time: bounds memory and pins the compiled shape. flowhelm's own.

    What is bound to a row goes with it. An edit that compares rows (`diverse`) must be made after this one, not before.
    """
    return Chunked(flow, size)
