"""The laws of operators and of rewards: what they do to pictures `(b, c, h, w)` in [-1, 1]. See `laws`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...grad import dot
from ...measure import LinearOperator, Operator
from ...step import Reward
from .laws import Breach, Note

CLOSE = 1e-4
"""Relative to the larger side: float32, and operators that solve by iterations."""


def _pictures(shape: tuple[int, ...], rows: int = 3, seed: int = 0) -> Tensor:
    """Smooth noise in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(rows, *shape, generator=generator) * 2 - 1
    return 0.5 * rough + 0.5 * rough.mean((-1, -2), keepdim=True)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()).clamp(min=1e-12))


def measures(operator: Operator, shape: tuple[int, ...]) -> str:
    """A(image) is a tensor with a row for each picture, finite, of floating point, the same each time, and leaves the picture alone."""
    x = _pictures(shape)
    before = x.clone()
    y = operator.A(x)
    if not isinstance(y, Tensor) or y.ndim < 2 or len(y) != len(x):
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise Breach(f"of pictures {tuple(x.shape)} it makes {got}; return a tensor with a row for each picture")
    if not y.is_floating_point() or not y.isfinite().all():
        raise Breach(
            f"it gives {y.dtype} or infinite numbers; return finite real numbers (view_as_real of complex ones)"
        )
    if not torch.equal(x, before):
        raise Breach("it writes into the picture; make a new tensor")
    if not torch.equal(operator.A(x), y):
        raise Breach("it gives another measurement each time; add no noise in it, and draw masks once, from a seed")
    alone = torch.cat([operator.A(x[i : i + 1]) for i in range(len(x))])
    if _apart(alone, y) > CLOSE:
        raise Breach("a picture is measured otherwise among others; treat every row alike")
    return f"{tuple(shape)} -> {tuple(y.shape[1:])}"


def gradient(operator: Operator, shape: tuple[int, ...]) -> str:
    """A gradient reaches the picture, and it is the operator's."""
    x = _pictures(shape).requires_grad_()
    with torch.enable_grad():
        y = operator.A(x)
    if not y.requires_grad:
        raise Breach(
            "no gradient reaches the picture, and most methods need one; use torch only, without no_grad, detach or numpy"
        )
    (found,) = torch.autograd.grad(y.square().sum(), x)
    if not found.isfinite().all():
        raise Breach("its gradient is not finite; look for a square root or a division at 0")
    return "a gradient reaches the picture"


def span(operator: Operator, shape: tuple[int, ...]) -> str:
    """It takes pictures in [-1, 1]: black is -1, and dark greys are told apart."""
    greys = torch.tensor([-0.9, -0.5, 0.5, 0.9]).view(-1, *[1] * len(shape)).expand(-1, *shape).contiguous()
    y = operator.A(greys).flatten(1)
    dark, light = float((y[1] - y[0]).abs().max()), float((y[3] - y[2]).abs().max())
    if dark < 1e-3 * light:
        raise Breach(
            "it does not tell dark greys apart; pictures are in [-1, 1], not in [0, 1]: take (image + 1) / 2 inside it"
        )
    return "dark and light greys are told apart"


def linearity(operator: Operator, shape: tuple[int, ...]) -> str:
    """If it says that it is linear it is."""
    a, b = _pictures(shape), _pictures(shape, seed=1)
    off = _apart(operator.A(0.3 * a - 0.7 * b), 0.3 * operator.A(a) - 0.7 * operator.A(b))
    if isinstance(operator, LinearOperator):
        if off > CLOSE:
            raise Breach(
                f"it is not linear ({off:.1e} off), and says so by A_adjoint; of [0, 1] take the offset out, or return a plain function"
            )
        return "linear"
    if off < CLOSE:
        raise Note("it is linear, and does not say so; return flowhelm.Linear(function, shape): it then has a prox")
    return "not linear, and does not say that it is"


def adjoint(operator: Operator, shape: tuple[int, ...]) -> str:
    """<A x, y> = <x, A^T y>."""
    if not isinstance(operator, LinearOperator):
        return "not linear: it needs none"
    x = _pictures(shape)
    image = operator.A(x)
    y = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    left, right = dot(image, y), dot(x, operator.A_adjoint(y))
    scale = (dot(image, image) * dot(y, y)).sqrt()
    off = float(((left - right).abs() / scale).max())
    if off > CLOSE:
        raise Breach(
            f"<A x, y> and <x, A_adjoint y> are {off:.1e} apart; return flowhelm.Linear(function, shape), which makes the adjoint"
        )
    return "<A x, y> = <x, A_adjoint y>"


def prox(operator: Operator, shape: tuple[int, ...]) -> str:
    """prox_l2 makes the gradient of gamma/2 |A x - y|^2 + 1/2 |x - z|^2 zero."""
    if not isinstance(operator, LinearOperator):
        return "not linear: it needs none"
    z, gamma = _pictures(shape), 3.0
    y = operator.A(_pictures(shape, seed=1))
    found = operator.prox_l2(z, y, gamma)
    rest = gamma * operator.A_adjoint(operator.A(found) - y) + found - z
    off = float(rest.abs().max() / (gamma * operator.A_adjoint(operator.A(z) - y)).abs().max().clamp(min=1e-12))
    if off > 10 * CLOSE:
        raise Breach(
            f"its prox_l2 is {off:.1e} from the minimum; return flowhelm.Linear(function, shape), which solves for it"
        )
    return "prox_l2 is the minimum that it should be"


OPERATOR_LAWS: tuple[Callable[..., str], ...] = (measures, gradient, span, linearity, adjoint, prox)


def scores(reward: Reward, shape: tuple[int, ...]) -> str:
    """One finite number per picture, the same each time, whatever the other pictures are; the picture is left alone."""
    x = _pictures(shape)
    before = x.clone()
    with torch.no_grad():
        found = reward(x)
        if not isinstance(found, Tensor) or found.shape != (len(x),):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Breach(
                f"of {len(x)} pictures it makes {got}; return one number per picture, image.mean((1, 2, 3)) for instance"
            )
        if not found.isfinite().all():
            raise Breach("a score is not finite; look for a logarithm or a division at 0")
        if not torch.equal(x, before):
            raise Breach("it writes into the picture; make a new tensor")
        if not torch.equal(reward(x), found):
            raise Breach("it gives another score each time; put the network into eval(), and draw nothing")
        alone = torch.cat([reward(x[i : i + 1]) for i in range(len(x))])
    if _apart(alone, found) > CLOSE:
        raise Breach("a picture is scored otherwise among others; take means of each row, not of the batch")
    return "one number per picture"


def slope(reward: Reward, shape: tuple[int, ...]) -> str:
    """Whether methods that follow its gradient can use it."""
    x = _pictures(shape).requires_grad_()
    with torch.enable_grad():
        score: Any = reward(x)
    if not score.requires_grad:
        raise Note("it has no gradient; fk, svdd, rbf, path_search, best_of and noise_search need none")
    (found,) = torch.autograd.grad(score.sum(), x)
    if not found.isfinite().all():
        raise Breach("its gradient is not finite; look for a square root or a division at 0")
    return "a gradient reaches the picture"


REWARD_LAWS: tuple[Callable[..., str], ...] = (scores, slope)
