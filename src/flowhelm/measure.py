"""Measurement: y = operator(image) + N(0, std^2), a reward that also offers residual and prox.

Operators are deepinv's: any `deepinv.physics.Physics` fits the Protocols below as it is. This layer imports no third
party, so it knows them by shape only. A plain callable is a (non-linear) operator too: see `Function` and `Linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .grad import dot, per_row, vjp
from .rng import Noise


@runtime_checkable
class Operator(Protocol):
    """Maps a picture `(b, c, h, w)` to a measurement `(b, ...)`, differentiably."""

    def A(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class LinearOperator(Operator, Protocol):
    """A linear one: with its adjoint, a pseudo-inverse and a prox."""

    def A_adjoint(self, y: Tensor) -> Tensor: ...

    def A_dagger(self, y: Tensor) -> Tensor: ...

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2."""
        ...


@dataclass(frozen=True, eq=False)
class Function:
    """A plain differentiable callable, picture -> measurement, as an operator. Nothing is assumed of it."""

    function: Callable[[Tensor], Tensor]

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True, eq=False)
class Linear:
    """A plain callable that is linear: adjoint by its vjp, pseudo-inverse and prox by conjugate gradients.

    Args:
        function: picture `(b, *shape)` -> measurement.
        shape: of one picture.
        tolerance: of the relative residual of each row; iterations: at most so many.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    tolerance: float = 1e-6
    iterations: int = 200

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return vjp(self.function, y.new_zeros(len(y), *self.shape), y)[1]

    def A_dagger(self, y: Tensor) -> Tensor:
        """The least-squares solution of smallest norm."""
        normal = lambda x: self.A_adjoint(self.A(x))  # noqa: E731
        return conjugate_gradient(normal, self.A_adjoint(y), self.tolerance, self.iterations)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        shifted = lambda d: d + gamma * self.A_adjoint(self.A(d))  # noqa: E731
        # solved for the change, so that a prior estimate that already fits costs nothing
        return z + conjugate_gradient(shifted, gamma * self.A_adjoint(y - self.A(z)), self.tolerance, self.iterations)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was observed of a picture.

    Args:
        y: `(b, ...)`, in the operator's output unit (for the operators of this package pictures are in [-1, 1]).
        operator: deepinv physics, `Linear`, `Function`, or any callable.
        std: of the noise in y, > 0, in the unit of y.

    Called with a picture it gives log p(y | picture) up to a constant, one per row: a reward. A state batch of k rows
    per measurement (particles, row-major) is accepted everywhere.
    """

    y: Tensor
    operator: Operator
    std: float

    def __post_init__(self) -> None:
        if not isinstance(self.operator, Operator):
            if not callable(self.operator):
                raise ValueError(
                    f"Measurement: expected an operator with A(image) or a callable, got {type(self.operator).__name__}"
                )
            object.__setattr__(self, "operator", Function(self.operator))
        if not 0 < self.std < float("inf"):
            raise ValueError(
                f"Measurement: expected std > 0, got {self.std}; for a noise-free measurement give a small one, 0.005 say"
            )

    @property
    def linear(self) -> bool:
        """True if `prox` is there."""
        return isinstance(self.operator, LinearOperator)

    def _y(self, image: Tensor) -> Tensor:
        rows, remainder = divmod(len(image), len(self.y))
        if remainder or not rows:
            raise ValueError(f"Measurement: expected a batch that is a multiple of {len(self.y)}, got {len(image)}")
        return self.y if rows == 1 else self.y.repeat_interleave(rows, 0)

    def residual(self, image: Tensor) -> Tensor:
        """operator(image) - y, shaped as y."""
        return self.operator.A(image) - self._y(image)

    def misfit(self, image: Tensor) -> Tensor:
        """1/2 |operator(image) - y|^2 per row: `(b,)`."""
        r = self.residual(image)
        return 0.5 * dot(r, r)

    def __call__(self, image: Tensor) -> Tensor:
        """log p(y | image), without its constant: -misfit / std^2."""
        return -self.misfit(image) / self.std**2

    def prox(self, image: Tensor, weight: float) -> Tensor:
        """argmin_z weight * (-log p(y | z)) + 1/2 |z - image|^2; in closed form or by conjugate gradients.

        Raises:
            ValueError: for a non-linear operator, which has no such solution; minimise with an inner solver instead.
        """
        if not isinstance(self.operator, LinearOperator):
            raise ValueError(
                "Measurement.prox: expected a linear operator (with A_adjoint and prox_l2), got "
                f"{type(self.operator).__name__}; use an iterative inner solver such as flowhelm.inner.adam"
            )
        return self.operator.prox_l2(image, self._y(image), float(weight) / self.std**2)


@torch.no_grad()
def seen(y: Measurement, image: Tensor) -> Tensor:
    """1 where an entry of y depends on the picture, 0 where a mask leaves nothing of it but noise: `(b, ...)`.

    Args:
        image: any pictures `(b, ...)` of the right shape; only shape, type and device are used.

    Of a linear operator, told by a picture of fixed random numbers around 1, which neither a mean nor a difference of pixels
    sends to 0 (below 1e-6 of the largest is rounding). Of any other operator every entry counts as seen.
    """
    if not isinstance(y.operator, LinearOperator):
        return image.new_ones(len(image), *y.y.shape[1:])
    probe = 0.5 + torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(0))
    size = y.operator.A(probe.to(image).expand_as(image)).abs()
    return (size > 1e-6 * per_row(size.flatten(1).amax(1), size)).to(image)


def simulate(operator: Operator, image: Tensor, std: float, noise: Noise) -> Measurement:
    """Simulates: y = operator(image) + std * noise, one noise stream per row."""
    forward = operator.A if isinstance(operator, Operator) else operator
    y = forward(image)
    return Measurement(y + std * noise(y), operator, std)


def conjugate_gradient(apply: Callable[[Tensor], Tensor], b: Tensor, tolerance: float, iterations: int) -> Tensor:
    """Solves apply(x) = b, row by row, for a symmetric positive (semi-)definite map of a batch `(b, ...)`.

    Every row has its own step lengths and stops by its own residual, so that a row does not depend on its neighbours.
    """
    x, r = torch.zeros_like(b), b
    p, rr = r, dot(r, r)
    goal = tolerance**2 * rr
    for _ in range(iterations):
        active = rr > goal
        if not active.any():
            break
        ap = apply(p)
        curvature = dot(p, ap)
        step = torch.where(active & (curvature > 0), rr / curvature.clamp(min=torch.finfo(b.dtype).tiny), 0)
        x, r = x + per_row(step, p) * p, r - per_row(step, p) * ap
        rr, old = torch.where(step > 0, dot(r, r), 0), rr
        p = r + per_row(torch.where(old > 0, rr / old.clamp(min=torch.finfo(b.dtype).tiny), 0), p) * p
    return x
