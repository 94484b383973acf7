"""Paired flows: their source is not noise, but the noised mean of what a measured picture may have been. For `restore.pmrf`.

mean    E[clean | measured], by a network that was trained for one kind of damage
source  mean + spread N(0, I)
v       the velocity E[clean - source | x_t] of x_t = t clean + (1 - t) source, which does not see what was measured
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .flow import Pixels
from .path import Path, linear
from .shapes import State, Time

T = TypeVar("T")


@runtime_checkable
class Paired(Protocol):
    """A flow with its regressor.

    Attributes:
        spread: standard deviation of the noise that is added to the mean, in the unit of the picture.
    """

    spread: float

    def mean(self, picture: Tensor) -> Tensor:
        """What was measured, as a picture `(b, c, h, w)` -> the mean of what it may have been, shaped as it is."""
        ...


@dataclass(frozen=True, eq=False)
class PairedFlow(Pixels):
    """A paired flow of your own functions.

    Args:
        field: `field(x, t)`, the velocity; x `(b, *shape)`, t 0-dim float64 or `(b,)`.
        regressor: measured pictures -> means. spread: of the noise added to them, 0 for none. shape: of one picture.
    """

    field: Callable[[Tensor, Tensor], Tensor]
    regressor: Callable[[Tensor], Tensor]
    spread: float
    shape: tuple[int, ...]
    path: Path = linear
    prior_kind = "paired"

    def velocity(self, x: State, t: Time) -> State:
        return self.field(x, t)

    def mean(self, picture: Tensor) -> Tensor:
        return self.regressor(picture)


@dataclass(frozen=True, eq=False)
class PairedGaussian(Pixels):
    """The exact paired flow of clean ~ N(0, covariance) and y = clean + N(0, std^2 I). flowhelm's own, for tests.

    Args:
        covariance: `(d, d)`, symmetric and positive definite; float64 for tests. std, spread: above 0, and at least 0.

    The mean is K y, K = S (S + std^2 I)^-1, its covariance C = K S. With P = C + spread^2 I,
    V_t = t^2 S + (1-t)^2 P + 2 t (1-t) C and U_t = t S - (1-t) P + (1-2t) C the velocity is U_t V_t^-1 x. All
    these matrices commute, so that the flow is the optimal transport from N(0, P) to N(0, S).
    """

    covariance: Tensor
    std: float
    spread: float
    path: Path = linear
    prior_kind = "paired"

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (len(self.covariance),)

    @property
    def means(self) -> Tensor:
        """C, the covariance of the means."""
        return self._gain @ self.covariance

    @property
    def _gain(self) -> Tensor:
        noise = self.std**2 * torch.eye(len(self.covariance)).to(self.covariance)
        return torch.linalg.solve(self.covariance + noise, self.covariance)

    def mean(self, picture: Tensor) -> Tensor:
        return picture @ self._gain.T

    def velocity(self, x: State, t: Time) -> State:
        s, c = self.covariance, self.means
        p = c + self.spread**2 * torch.eye(len(s)).to(s)
        t = t.to(x)
        variance = t**2 * s + (1 - t) ** 2 * p + 2 * t * (1 - t) * c
        cross = t * s - (1 - t) * p + (1 - 2 * t) * c
        return x @ torch.linalg.solve(variance, cross)  # both are symmetric and commute


def within(flow: object, kind: type[T]) -> T | None:
    """The flow itself or the first of those that it wraps that is of this kind; None if there is none."""
    while flow is not None and not isinstance(flow, kind):
        flow = getattr(flow, "flow", None)
    return flow
