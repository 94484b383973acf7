"""Gradients of per-sample functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def value_and_grad(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values `(b,)` of a function of a batch `(b, ...)`, and the gradient of each with respect to its own row.

    Works under `torch.no_grad` too; both results are detached. The values are summed, never averaged, before the
    backward pass: a row's gradient does not depend on the size of the batch.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
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


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: `(b, ...), (b, ...) -> (b,)`."""
    return (a * b).flatten(1).sum(1)


def per_row(weight: Tensor, like: Tensor) -> Tensor:
    """`(b,)` shaped `(b, 1, ...)` so that it multiplies the rows of `like`."""
    return weight.to(like).reshape(-1, *(1,) * (like.ndim - 1))
