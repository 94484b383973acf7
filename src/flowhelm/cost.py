"""What a run costs, counted before it starts: the method runs on four pixels, with a network and an operator that cost nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .flow import Pixels
from .guide import counted
from .looks import Looks
from .measure import Measurement
from .path import Path, linear
from .rng import Noise

GRID = 4
"""Steps of a longer run that are made to count, and half of them: as its cost grows from these to those, it grows on."""
WALKED = 10_000
"""Evaluations and applications after which counting ends: in so few steps they are too many, and a graph of more may be too deep."""


class Nothing(Pixels):
    """A flow on some path that costs nothing and means nothing."""

    shape = (1, 2, 2)

    def __init__(self, path: Path, prior_kind: str = "flow"):
        self.path, self.prior_kind = path, prior_kind

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.tanh() / 2  # not linear: what is recomputed in a backward pass must be, here too


class Cost(NamedTuple):
    """About what a run costs: evaluations of the network, of which `backward` are differentiated, and applications of the operator."""

    evaluations: float
    backward: float
    applications: float

    @property
    def whole(self) -> float:
        """Evaluations, those of inner solvers too, which go through the operator alone."""
        return self.evaluations + self.applications


class _Enough(Exception):
    pass


class _Bounded(Nothing):
    """It ends the run when that is too large."""

    looks: Looks = "turned"  # what costs most

    def __init__(self, path: Path, enough: Callable[[], bool]):
        super().__init__(path)
        self.enough = enough

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        if self.enough():
            raise _Enough
        return super().velocity(x, t)


@dataclass
class _Curved:
    """An operator that is not linear, with a tally; it ends the run when that is too large."""

    enough: Callable[[], bool]
    count: int = 0

    def A(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.enough():
            raise _Enough
        return x.tanh()


@dataclass
class _Same(_Curved):
    """The same, linear."""

    shape: tuple[int, ...] = field(default=Nothing.shape)

    def A(self, x: Tensor) -> Tensor:
        super().A(x)
        return x

    A_adjoint = A_dagger = A

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        return (self.A(z) + gamma * y) / (1 + gamma)


def cost(
    method: Callable[..., Any],
    values: Mapping[str, Any],
    steps: int,
    *,
    linear_: bool | None = None,
    most: float = math.inf,
    path: Path = linear,
) -> Cost:
    """About what so many steps cost; of one that costs more than `most`, only that.

    Args:
        values: of the method's options, as it is called with them. linear_: whether the operator is, and the prior has no decoder; None
            if that is not known: what costs more.

    Raises:
        ValueError: what the method refuses.
    """
    if linear_ is None:
        try:
            return cost(method, values, steps, linear_=False, most=most, path=path)
        except ValueError:  # an inner solver that solves linear problems only
            linear_ = True
    if max(_whole(values), default=0) > most:  # one option alone, which may not even fit into memory
        return Cost(most, 0, most)
    made = min(steps, GRID)
    found = _run(method, values, made, linear_, path, most * made / steps + 100)
    if found is None:
        return Cost(most, 0, most)
    if steps == made:
        return found
    fewer = _run(method, values, made // 2, linear_, path, math.inf) or found
    more, half = steps - made, made // 2

    def grown(now: float, before: float) -> float:  # what comes once, at the end say, is not counted for every step
        return min(now * steps / made, now + more * (now - before) / half)

    return Cost(*map(grown, found, fewer))


def _run(
    method: Callable[..., Any], values: Mapping[str, Any], steps: int, linear_: bool, path: Path, limit: float
) -> Cost | None:
    """What so few steps cost; None if that is more than the limit."""
    rows = int(values.get("particles", 1))
    noise, limit = Noise(0, rows), min(limit, WALKED)

    def enough() -> bool:
        return flow.count.rows + operator.count > limit

    flow = counted(_Bounded(path, enough))
    operator = (_Same if linear_ else _Curved)(enough)
    y = Measurement(torch.full((1, *Nothing.shape), 0.3), operator, 0.05)
    try:
        with torch.inference_mode(False), torch.no_grad():
            for _ in method(
                flow, y, flow.source(noise), torch.linspace(0, 1, steps + 1).double(), noise=noise, **values
            ):
                if enough():
                    raise _Enough
    except (_Enough, RecursionError):
        return None
    except (RuntimeError, ArithmeticError):  # of numbers that nothing can be computed with: the run itself says so
        return Cost(0, 0, 0)
    return Cost(flow.count.rows, flow.count.backward * rows, operator.count)


def most_of(method: Callable[..., Any], values: Mapping[str, Any], steps: int, kind: str, most: float) -> float:
    """What a run costs with a prior of this kind, `Flow.prior_kind`, or at most costs; counting ends at `most`."""
    return cost(method, values, steps, most=most).whole if kind == "flow" else bound(method, values, steps)


def bound(method: Callable[..., Any], values: Mapping[str, Any], steps: int) -> int:
    """At most what a method of a prior that is no flow costs, which cannot be counted so: every whole number among its options may be a
    number of inner steps or of draws."""
    usual = {name: each.default for name, each in signature(method).parameters.items()}
    return steps * (1 + sum(_whole(usual | dict(values))))


def _whole(values: Any) -> list[int]:
    """Whole numbers in options, those of inner solvers too."""
    if isinstance(values, partial):
        return _whole(values.keywords)
    if isinstance(values, Mapping):
        return [number for each in values.values() for number in _whole(each)]
    return [values] if isinstance(values, int) and not isinstance(values, bool) else []
