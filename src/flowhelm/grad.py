"""Gradients of per-sample functions, and numbers and masks per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .rng import Noise
from .shapes import PerSample


def value_and_grad(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values `(b,)` of a function of a batch `(b, ...)`, and the gradient of each with respect to its own row.

    Works under `torch.no_grad` too; both results are detached. The values are summed, never averaged, before the
    backward pass: a row's gradient does not depend on the size of the batch.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x.view_as(x))  # a network must not see a leaf: what counts its operations cannot follow one
        if value.shape != x.shape[:1]:
            raise ValueError(f"value_and_grad: expected one value per row, shape ({len(x)},), got {tuple(value.shape)}")
        if not value.requires_grad:  # a constant
            return value, torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    return value.detach(), torch.zeros_like(x) if gradient is None else gradient


def vjp(function: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) and J^T cotangent, detached; works under `torch.no_grad`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        (product,) = torch.autograd.grad(value, x, cotangent)
    return value.detach(), product


def twice() -> Any:
    """For code that differentiates a gradient, as a context or a decorator: torch's fused attention has no second derivative.

    Attention is computed by its plain formula inside, with the memory that this takes.
    """
    return sdpa_kernel(SDPBackend.MATH)


@twice()
def gauss_newton(residual: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best step along the gradient for a residual r(x), to first order: a Gauss-Newton step on a line.

    Returns:
        1/2 |r|^2 `(b,)`, its gradient g = J^T r, shaped as x, and the length |g|^2 / |J g|^2 `(b,)` of the step, each row's own.
        All detached. 3 passes through the residual, of which it must allow 2 derivatives.
    """
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        r = residual(z)
        w = r.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(r, z, w, create_graph=True)
        (moved,) = torch.autograd.grad(gradient, w, gradient.detach())  # J^T w is linear in w: its derivative is J
    gradient, w = gradient.detach(), w.detach()
    best = dot(gradient, gradient) / dot(moved, moved).clamp(min=torch.finfo(x.dtype).tiny)
    return dot(w, w) / 2, gradient, best


def differentiable(value: Tensor, control: Tensor) -> Tensor:
    """The value of a reward, if it has a gradient where one is asked for: without it the control would stay 0 without a word."""
    if control.requires_grad and not value.requires_grad:
        raise ValueError(
            "control: expected a differentiable reward, got one whose value does not depend on the picture by autograd; "
            "check it for detach, item, numpy or no_grad, or use a gradient-free method"
        )
    return value


def probes(like: Tensor, noise: Noise | None) -> Iterator[Tensor]:
    """Directions u `(b, ...)` whose u u^T is the identity: one random u on average, or without `noise` the sum of all unit vectors."""
    if noise is not None:
        yield noise(like)
        return
    for j in range(like[0].numel()):
        u = torch.zeros_like(like).flatten(1)
        u[:, j] = 1
        yield u.view_as(like)


def dot(a: Tensor, b: Tensor) -> PerSample:
    """Inner product of each row: `(b, ...), (b, ...) -> (b,)`."""
    return (a * b).flatten(1).sum(1)


def per_row(weight: Tensor, like: Tensor) -> Tensor:
    """`(b,)` shaped `(b, 1, ...)` so that it multiplies the rows of `like`."""
    return weight.to(like).reshape(-1, *(1,) * (like.ndim - 1))


def where_rows(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """The rows of `chosen` where the mask `(b,)` is true, else those of `other`, both `(b, ...)`."""
    return torch.where(mask.reshape(-1, *(1,) * (chosen.ndim - 1)), chosen, other)
