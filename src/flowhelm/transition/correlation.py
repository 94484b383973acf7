"""The correlation of the noises at two times, which a random move is free to choose: every one keeps every marginal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ..path import Coeffs
from ..shapes import Time

Correlation = (
    Literal["ddpm"]
    | Annotated[float, Ge(-1), Le(1)]
    | tuple[Literal["kappa"], float]
    | Callable[[Tensor, Tensor], Tensor | float]
)
"""That of the noising process, a number, ("kappa", k), or a function (s, t), each 0-dim -> rho in [-1, 1]."""


def correlated(given: Correlation, here: Coeffs, there: Coeffs, s: Time, t: Time) -> Tensor:
    """rho of the noises at s and t, whose coefficients are `here` and `there`: 0-dim, in [-1, 1]."""
    ddpm = here.alpha * there.sigma / (here.sigma * there.alpha)
    if given == "ddpm":
        return ddpm
    if isinstance(given, tuple) and len(given) == 2 and given[0] == "kappa":
        return ddpm ** given[1]
    if not isinstance(given, float | int) and not callable(given):
        raise ValueError(f'glass: expected "ddpm", a number, ("kappa", k) or a function as correlation, got {given!r}')
    rho = torch.as_tensor(given(s, t) if callable(given) else given, dtype=torch.float64)
    if not -1 <= rho <= 1:
        raise ValueError(f"glass: expected a correlation in [-1, 1], got {float(rho):g}")
    return rho
