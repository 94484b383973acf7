"""Diffusion coefficients eps(t) >= 0 of dx = (v + eps score) dt + sqrt(2 eps) dW, for `langevin` and `train.interpolate`.

Every one keeps every marginal (Albergo et al. 2023, arXiv:2303.08797), so it is chosen when sampling, after
training; they differ in the errors of the network and of the step that they correct or add. The list is that of SiT (Ma et al.
2024, arXiv:2401.08740), each times a `level`. Times are `()` or `(b,)`, coefficients shaped as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..entry import Fraction, NonNegative, guarded
from ..path import Path
from ..shapes import Time, Times

Diffusion = Callable[[Tensor], Tensor]
"""Times -> eps, shaped as they are."""


@guarded
def constant(level: NonNegative = 1.0) -> Diffusion:
    """eps = level."""
    return lambda t: level * torch.ones_like(t)


@guarded
def reversal(path: Path, level: NonNegative = 1.0) -> Diffusion:
    """eps = level ((alpha'/alpha) sigma^2 - sigma' sigma): at level 1 the noising process run backwards ("SBDM").

    (1-t)/t on the linear path. Infinite where alpha = 0: put it `within` bounds, or start later.
    """

    def eps(t: Time) -> Tensor:
        c = path(t)
        return level * (c.d_alpha / c.alpha * c.sigma**2 - c.d_sigma * c.sigma)

    return eps


@guarded
def sigma(path: Path, level: NonNegative = 1.0) -> Diffusion:
    """eps = level sigma(t): vanishes where the score is infinite."""
    return lambda t: level * path(t).sigma


@guarded
def falling(level: NonNegative = 1.0, power: NonNegative = 1.0) -> Diffusion:
    """eps = level (1 - t)^power ("linear"); RBF (arXiv:2503.19385) takes dW times 3 (1 - t)^2, which is level 4.5, power 4."""
    return lambda t: level * (1 - t) ** power


@guarded
def cosine(level: NonNegative = 1.0) -> Diffusion:
    """eps = level (1 + cos pi t)^2 / 4 ("decreasing")."""
    return lambda t: level * (1 + torch.cos(math.pi * t)) ** 2 / 4


@guarded
def hill(level: NonNegative = 1.0) -> Diffusion:
    """eps = level sin^2 pi t ("increasing-decreasing"): nothing at either end, where the score of two-sided bridges is delicate."""
    return lambda t: level * torch.sin(math.pi * t) ** 2


@guarded
def within(diffusion: Diffusion, start: Fraction = 0.0, stop: Fraction = 1.0) -> Diffusion:
    """The same for start <= t < stop and 0 elsewhere, so that those steps are of the ODE; SiT stops at 0.96."""
    return lambda t: torch.where((t >= start) & (t < stop), diffusion(t), 0.0)


def finite(diffusion: Diffusion, times: Times, who: str) -> Diffusion:
    """The same, if it is finite at all these times; else a ValueError that names the first at which it is not."""
    for t in times:
        if not diffusion(t.double()).isfinite().all():
            raise ValueError(
                f"{who}: expected a finite diffusion, got infinity at t = {float(t):g}; use diffusion.within"
            )
    return diffusion
