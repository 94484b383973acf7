"""Transforms of the newest slope of a multi-step solver, at no evaluation: momentum, and extrapolation from a reference.

    unipc(flow, x, times, slope=partial(momentum, beta=0.8))
    ab(flow, x, times, slope=partial(dual_fast, strength=0.3))

A solver makes its own transform at its first step, so that no history outlives a run. One is the limit: a second would
extrapolate, or damp, the same difference twice; `refuse` says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..entry import Fraction, NonNegative, guarded
from ..path import Ends


class Turned(Protocol):
    """A transform with the memory of one run."""

    def newest(self, ends: Ends, alpha: float, sigma: float, share: float) -> Ends:
        """What stands for the newest prediction alone; differences stay raw. `share` of the steps is done, in [0, 1)."""
        ...

    def whole(self, e: Tensor, again: bool) -> Tensor:
        """What stands for the effective slope e of the step; `again`: of the step before, which a corrector makes once more."""
        ...


Slope = Callable[[], Turned]
"""Makes a transform for one run: `momentum` or `dual_fast`, with their options fixed by functools.partial."""


class Plain:
    """No transform."""

    def newest(self, ends: Ends, alpha: float, sigma: float, share: float) -> Ends:
        return ends

    def whole(self, e: Tensor, again: bool) -> Tensor:
        return e


@dataclass
class _Momentum(Plain):
    beta: float
    nesterov: bool
    u: Tensor | None = None
    before: Tensor | None = None

    def whole(self, e: Tensor, again: bool) -> Tensor:
        if not again:
            self.before = self.u
        self.u = e if self.before is None else (1 - self.beta) * self.before + self.beta * e
        return (1 - self.beta) * self.u + self.beta * e if self.nesterov else self.u


@guarded
def momentum(*, beta: Fraction = 0.9, nesterov: bool = False) -> Turned:
    """Heavy ball: u <- (1 - beta) u + beta e, from u = e. Wizadwongsa et al. 2023, arXiv:2307.11118, section 4.1.

    Args:
        beta: 1 is no momentum; below, the solver is of first order and its stability region is larger.
        nesterov: move with the next u that the same slope would give.
    """
    return _Momentum(beta, nesterov)


@dataclass
class _DualFast(Plain):
    strength: float
    reference: str
    form: str
    kept: Tensor | None = None

    def newest(self, ends: Ends, alpha: float, sigma: float, share: float) -> Ends:
        old, c = self.kept, self.strength * (share if self.reference == "first" else 1.0)
        now = ends.source if self.form == "epsilon" else ends.clean - ends.source
        if old is None or self.reference == "previous":
            self.kept = now
        if old is None or c == 0 or (self.form == "epsilon" and alpha == 0):
            return ends
        g, c = now - old, -c / alpha if self.form == "epsilon" else c
        source, clean = (torch.add(end, g, alpha=k * c) for end, k in zip(ends, (-alpha, sigma), strict=True))
        return Ends(source, clean)  # the state stays


@guarded
def dual_fast(
    *,
    strength: NonNegative = 0.3,
    reference: Literal["first", "previous"] = "first",
    form: Literal["velocity", "epsilon"] = "velocity",
) -> Turned:
    """The newest prediction, extrapolated away from an earlier one. DualFast, Yu et al. 2025, arXiv:2506.13058.

    Args:
        strength: c in p + c (p - p_reference); with the first step as reference it rises from 0 to c over the steps.
        reference: the first step's prediction, or the previous one (constant c; 1/2 is Adams-Bashforth 2 on an even grid).
        form: velocity is regular everywhere; epsilon, the paper's, divides by alpha.
    """
    return _DualFast(strength, reference, form)


ALL = (momentum, dual_fast)


def refuse(who: str, base: Callable[..., Any]) -> None:
    """Raises ValueError where a transform of slopes would be put upon another one, or upon what has none."""
    keywords = base.keywords if isinstance(base, partial) else {}
    plain = base.func if isinstance(base, partial) else base
    name = plain.__name__
    if keywords.get("slope") is not None or name in ("ghvb", "hb", "dual_fast", "pseudo"):
        raise ValueError(
            f"{who}: expected a base solver whose slopes are its own, got {name}"
            f"{'' if keywords.get('slope') is None else ' with a slope'}, which transforms them already: the same difference would be "
            "extrapolated or damped twice; take ab, dpm, unipc, deis or res as they are"
        )
    if "slope" not in inspect.signature(plain).parameters:
        raise ValueError(
            f"{who}: expected a multi-step base solver, got {name}, which keeps no slopes; take ab, dpm, unipc, deis or res"
        )
