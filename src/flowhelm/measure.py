"""Measurement: y = operator(image) + N(0, std^2), a reward that also offers residual and prox.

Operators are deepinv's: any `deepinv.physics.Physics` fits the Protocols below as it is. This layer imports no third
party, so it knows them by shape only. A plain callable is a (non-linear) operator too: see `Function`, `Linear` and `Identity`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .grad import dot, per_row, vjp
from .rng import Noise
from .shapes import Image, PerSample


@runtime_checkable
class Operator(Protocol):
    """Maps a picture `(b, c, h, w)` to a measurement `(b, ...)`, differentiably. flowhelm's own."""

    def A(self, x: Image) -> Tensor: ...


@runtime_checkable
class LinearOperator(Operator, Protocol):
    """A linear one: with its adjoint, a pseudo-inverse and a prox."""

    def A_adjoint(self, y: Tensor) -> Image: ...

    def A_dagger(self, y: Tensor) -> Image: ...

    def prox_l2(self, z: Image, y: Tensor, gamma: float) -> Image:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2."""
        ...


@dataclass(frozen=True, eq=False)
class Function:
    """A plain differentiable callable, picture -> measurement, as an operator. Nothing is assumed of it. flowhelm's own."""

    function: Callable[[Tensor], Tensor]

    def A(self, x: Image) -> Tensor:
        return self.function(x)


@dataclass(frozen=True, eq=False)
class Identity:
    """The picture itself: all that stands between it and its measurement is noise. flowhelm's own."""

    def A(self, x: Image) -> Tensor:
        return x

    A_adjoint = A_dagger = __call__ = A

    def prox_l2(self, z: Image, y: Tensor, gamma: float) -> Image:
        return (z + gamma * y) / (1 + gamma)


@dataclass(frozen=True, eq=False)
class Linear:
    """A plain callable that is linear: adjoint by its vjp, pseudo-inverse and prox by conjugate gradients. flowhelm's own.

    Args:
        function: picture `(b, *shape)` -> measurement.
        shape: of one picture.
        tolerance: of the relative residual of each row; iterations: at most so many.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    tolerance: float = 1e-6
    iterations: int = 200

    def A(self, x: Image) -> Tensor:
        return self.function(x)

    def A_adjoint(self, y: Tensor) -> Image:
        return vjp(self.function, y.new_zeros(len(y), *self.shape), y)[1]

    def A_dagger(self, y: Tensor) -> Image:
        """The least-squares solution of smallest norm."""
        normal = lambda x: self.A_adjoint(self.A(x))  # noqa: E731
        return conjugate_gradient(normal, self.A_adjoint(y), self.tolerance, self.iterations)

    def prox_l2(self, z: Image, y: Tensor, gamma: float) -> Image:
        shifted = lambda d: d + gamma * self.A_adjoint(self.A(d))  # noqa: E731
        # solved for the change, so that a prior estimate that already fits costs nothing
        return z + conjugate_gradient(shifted, gamma * self.A_adjoint(y - self.A(z)), self.tolerance, self.iterations)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was observed of a picture. flowhelm's own.

    Args:
        y: `(b, ...)`, in the operator's output unit (for the operators of this package pictures are in [-1, 1]).
        operator: deepinv physics, `Identity`, `Linear`, `Function`, or any callable.
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
        if not self.y.is_floating_point():
            raise ValueError(
                f"Measurement: expected y as real floating-point numbers, got {self.y.dtype}; give complex numbers as "
                "two real channels (torch.view_as_real), and whole numbers as y.float()"
            )

    @property
    def linear(self) -> bool:
        """True if `prox` is there."""
        return isinstance(self.operator, LinearOperator)

    def repeated(self, rows: int) -> Tensor:
        """y for a batch of `rows` states, of which each measurement has as many as any other: `(rows, ...)`."""
        return self._repeated(self.y, rows)

    def rows(self, index: Tensor, total: int) -> Measurement:
        """Of some rows of a batch of `total` states."""
        return replace(self, y=self.repeated(total)[index.to(self.y.device)])

    def seen(self, rows: int) -> Tensor:
        """1 where an entry of y depends on the picture, 0 where a mask leaves nothing of it but noise: `(rows, ...)`.

        Told by a picture of fixed random numbers around 1, which neither a mean nor a difference of pixels sends to 0 (below 1e-6
        of the largest is rounding). Of a non-linear operator every entry counts as seen.
        """
        return self._repeated(self._seen, rows)

    def count(self, rows: int) -> PerSample:
        """How many entries of y are seen: `(rows,)`."""
        return self._repeated(self._seen.flatten(1).sum(1), rows)

    def perturbed(self, rows: int, noise: Noise, share: float = 1.0) -> Measurement:
        """y of a batch of `rows` states with `share` times its noise added once more, drawn anew for each state.

        A `prox` of it from a normal draw of the picture is a draw of the picture given y.
        """
        y = self.repeated(rows)
        return replace(self, y=y + share * self.std * noise(y))

    @cached_property
    @torch.no_grad()
    def _picture(self) -> Tensor:
        """Something of the shape of the pictures that a linear operator takes, one per measurement."""
        assert isinstance(self.operator, LinearOperator)
        return self.operator.A_adjoint(self.y)

    @cached_property
    @torch.no_grad()
    def _seen(self) -> Tensor:
        if not isinstance(self.operator, LinearOperator):
            return torch.ones_like(self.y)
        probe = 0.5 + torch.rand(self._picture.shape[1:], generator=torch.Generator().manual_seed(0))
        size = self.operator.A(probe.to(self.y).expand_as(self._picture)).abs()
        return (size > 1e-6 * per_row(size.flatten(1).amax(1), size)).to(self.y)

    @cached_property
    @torch.no_grad()
    def noise_share(self) -> float:
        """Share of the pixels, with all their channels, that bear the measurement's noise: 1/4 where every second pixel of both ways
        is known, 1/3 of a Bayer mosaic, 1 where all are measured or mixed, or where the operator is not linear.

        So std sqrt(noise_share) is the root mean square noise of a picture whose holes are filled without any.
        """
        if not isinstance(self.operator, LinearOperator) or self.y.ndim != 4 or hasattr(self.operator, "crop"):
            return 1.0
        known = self.operator.A_dagger(torch.ones_like(self.y[:1]))
        if bool(((known - known.round()).abs() > 1e-4).any()):
            return 1.0
        share = float((known.round() > 0).double().mean())
        return share or 1.0

    @cached_property
    @torch.no_grad()
    def stiffness(self) -> float:
        """The largest eigenvalue of A^T A, of a linear operator, by thirty power iterations from fixed random numbers."""
        assert isinstance(self.operator, LinearOperator)
        x, largest = torch.randn(self._picture.shape, generator=torch.Generator().manual_seed(0)).to(self.y), 0.0
        for _ in range(30):
            x = self.operator.A_adjoint(self.operator.A(x))
            largest = float(x.norm())
            x = x / max(largest, 1e-30)
        return largest

    def _repeated(self, each: Tensor, rows: int) -> Tensor:
        times, remainder = divmod(rows, len(each))
        if remainder or not times:
            raise ValueError(f"Measurement: expected a batch that is a multiple of {len(each)}, got {rows}")
        return each if times == 1 else each.repeat_interleave(times, 0)

    def residual(self, image: Image) -> Tensor:
        """operator(image) - y, shaped as y."""
        return self.operator.A(image) - self.repeated(len(image))

    def misfit(self, image: Image) -> PerSample:
        """1/2 |operator(image) - y|^2 per row: `(b,)`."""
        r = self.residual(image)
        return 0.5 * dot(r, r)

    def __call__(self, image: Image) -> PerSample:
        """log p(y | image), without its constant: -misfit / std^2."""
        return -self.misfit(image) / self.std**2

    def prox(self, image: Image, weight: float) -> Image:
        """argmin_z weight * (-log p(y | z)) + 1/2 |z - image|^2; in closed form or by conjugate gradients.

        Raises:
            ValueError: for a non-linear operator, which has no such solution, and for a state that is not the picture (that of
                a prior with a decoder); minimise with an inner solver instead.
        """
        if not isinstance(self.operator, LinearOperator):
            raise ValueError(
                "Measurement.prox: expected a linear operator (with A_adjoint and prox_l2), got "
                f"{type(self.operator).__name__}; use an iterative inner solver such as flowhelm.inner.adam"
            )
        if image.shape[1:] != self._picture.shape[1:]:
            raise ValueError(
                f"Measurement.prox: expected a picture of shape {tuple(self._picture.shape[1:])}, got {tuple(image.shape[1:])}; "
                "the state of a prior with a decoder is not the picture: use an iterative inner solver such as flowhelm.inner.adam"
            )
        return self.operator.prox_l2(image, self.repeated(len(image)), float(weight) / self.std**2)


def simulate(operator: Operator, image: Image, std: float, noise: Noise) -> Measurement:
    """Simulates: y = operator(image) + std * noise, one noise stream per row. flowhelm's own."""
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
