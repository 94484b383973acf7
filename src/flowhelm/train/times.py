"""Densities of the training time. Esser et al. 2024, arXiv:2403.03206, section 3.1.

A density is given by its quantile function: numbers u in (0, 1) -> times t in [0, 1], so that a batch can be drawn
in strata (`draw`) and a shift composes. Time is the library's: t = 1 is clean. The paper's runs the other way, so its
logit-normal mean m is -mean here; mode and cosmap are symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Density = Callable[[Tensor], Tensor]
"""Quantiles `(n,)` in (0, 1) -> times `(n,)` in [0, 1]."""


def uniform(u: Tensor) -> Tensor:
    """Every time alike."""
    return u


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """logit t ~ N(mean, std^2), section 3.1, eq. 19 (the paper's m = -mean). Its density vanishes at both ends."""
    if std <= 0:
        raise ValueError(f"logit_normal: expected std > 0, got {std}")
    return lambda u: torch.sigmoid(mean + std * torch.special.ndtri(u))


def mode(scale: float = 1.29) -> Density:
    """Heavy in the middle for scale > 0, at the ends for scale < 0; eq. 20. -1 <= scale <= 2 / (pi - 2) = 1.7519."""
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"mode: expected -1 <= scale <= {2 / (math.pi - 2):.4f}, got {scale}")
    return lambda u: u + scale * (u - torch.sin(math.pi / 2 * u) ** 2)


def cosmap(u: Tensor) -> Tensor:
    """The log signal-to-noise ratio of the cosine path on the linear one; eq. 21: pi(t) = 2 / (pi - 2 pi t + 2 pi t^2)."""
    # 1 - 1 / (tan(pi u / 2) + 1) without the pole at u = 1, where a float32 tangent changes its sign
    sine, cosine = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
    return sine / (sine + cosine)


def shifted(density: Density, factor: float) -> Density:
    """The density moved towards noise for a picture of factor^2 as many pixels; section 5.3.2, eq. 23.

    (1 - t) -> factor (1 - t) / (1 + (factor - 1) (1 - t)): a translation of logit t by -log factor.
    """
    if factor <= 0:
        raise ValueError(f"shifted: expected factor > 0, got {factor}")

    def quantile(u: Tensor) -> Tensor:
        t = density(u)
        return t / (t + factor * (1 - t))

    return quantile


def draw(density: Density, count: int, generator: torch.Generator) -> Tensor:
    """`count` times, one from each of as many equally likely strata, in random order: `(count,)` on the generator's device.

    Each has the density; the strata take most of the variance out of a batch's mean (as Kingma et al. 2021,
    arXiv:2107.00630, appendix I.1, do with a lattice).
    """
    device = generator.device
    u = (
        torch.randperm(count, generator=generator, device=device)
        + torch.rand(count, generator=generator, device=device)
    ) / count
    return density(u.clamp(1e-6, 1 - 1e-6))  # keeps t off the two ends, where a path's derivatives may be infinite
