"""The record: what a method yields, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from .shapes import Image, PerSample, State, Time

Reward = Callable[[Image], PerSample]
"""Picture `(b, c, h, w)` -> `(b,)`; higher is better, a log-density: so a likelihood is a reward."""


def rows_of(reward: Reward, index: Tensor, total: int) -> Reward:
    """The reward of some rows, `index`, of a batch of `total`: what it has for each row goes with the row.

    By the reward's own `rows(index, total)`, if it has one; without it a reward treats every row alike.
    """
    own = getattr(reward, "rows", None)
    return reward if own is None else own(index, total)


class Step(NamedTuple):
    """One step of a sampler. flowhelm's own.

    Attributes:
        index, total: `index` of `total` steps are done.
        t: the time of `x`, 0-dim float64 on the CPU.
        x: the state `(b, ...)`, detached. `x`, `times[index:]` and the noise streams' state resume a one-step method exactly.
        clean: the current estimate of the clean state, for previews (decode it to see it).
        info: whatever else there is to know of the step, by name, detached; nothing by default.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a step
    total: int
    t: Time
    x: State
    clean: State
    info: Mapping[str, Tensor] = {}


class Update(NamedTuple):
    """One update of a training: `index` of `total` are done; `loss` 0-dim, detached. flowhelm's own."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a step
    total: int
    loss: Tensor
    info: Mapping[str, Tensor]


class Diverged(RuntimeError):
    """A state that is not finite. `last` is the last good step, or None if the first one was bad. flowhelm's own."""

    def __init__(self, message: str, last: Step | None):
        super().__init__(message)
        self.last = last


def finite(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps of a method, as long as their states are finite.

    Raises:
        Diverged: at the first state with an infinity or a NaN.
    """
    last: Step | None = None
    for step in steps:
        if not (step.x.sum().isfinite() or step.x.isfinite().all()):  # a finite sum says it of all terms, in one pass
            raise Diverged(
                f"the state is not finite after step {step.index} of {step.total} (t = {float(step.t):.4g}); "
                "lower the strength or the rate",
                last,
            )
        last = step
        yield step


def run(steps: Iterable[Step], each: Callable[[Step], None] | None = None) -> Step:
    """Runs a method to its end; returns the last step. flowhelm's own.

    Args:
        each: called with every step (a progress bar, a preview).

    Raises:
        Diverged: at the first state with an infinity or a NaN.
        ValueError: if the method yields nothing (an empty grid).
    """
    last: Step | None = None
    for last in finite(steps):
        if each is not None:
            each(last)
    if last is None:
        raise ValueError("run: the method made no step; expected a grid of at least two times")
    return last
