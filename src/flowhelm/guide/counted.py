"""Counts what a method costs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import overload

from torch import Tensor

from ..flow import Flow, Wrapped
from ..masked import Masked
from ..shapes import State, Time


@dataclass
class Count:
    """Network calls so far.

    Attributes:
        calls: batched forward calls; rows: evaluations, one per batch row and call; backward: calls differentiated.
    """

    calls: int = 0
    rows: int = 0
    backward: int = 0


@dataclass(frozen=True, eq=False)
class Counted(Wrapped):
    flow: Flow
    count: Count = field(default_factory=Count)

    def velocity(self, x: State, t: Time) -> State:
        self.count.calls += 1
        self.count.rows += len(x)
        v = self.flow.velocity(x, t)
        if v.requires_grad:
            v.register_hook(self._differentiated)
        return v

    def _differentiated(self, gradient: Tensor) -> None:
        self.count.backward += 1


@dataclass(frozen=True, eq=False)
class CountedTokens(Masked):
    count: Count = field(default_factory=Count)

    def logits(self, tokens: Tensor) -> Tensor:
        self.count.calls += 1
        self.count.rows += len(tokens)
        log_p = super().logits(tokens)
        if log_p.requires_grad:
            log_p.register_hook(self._differentiated)
        return log_p

    def _differentiated(self, gradient: Tensor) -> None:
        self.count.backward += 1


@overload
def counted(flow: Masked) -> CountedTokens: ...  # type: ignore[overload-overlap]
@overload
def counted(flow: Flow) -> Counted: ...
def counted(flow: Flow) -> Counted | CountedTokens:
    """The same flow with a tally, `.count`: what a method costs is measured, not declared. flowhelm's own."""
    if isinstance(flow, Masked):
        return CountedTokens(**{each.name: getattr(flow, each.name) for each in fields(Masked)})
    return Counted(flow)
