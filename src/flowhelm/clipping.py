"""Noise that a file cuts off at black and white: its moments, and the picture as it was before, as far as it can be known.

    y = unclipped(picture, std)      # (b, c, h, w) in [-1, 1] as a file holds it -> values beyond black and white, too

A restorer believes that noise is as often up as down. Where it was cut off at black, what is left of it lies above: 0.4 of its standard
deviation on average, so that shadows come back grey and highlights dull. Of a value that was cut off it is known that it was beyond
(it is censored, as statistics has it); its mean is that of a normal variable given so much, about the clean picture there, which is
estimated from the neighbours:

    y = E[x + n | x + n <= -1] = x - std phi(a) / Phi(a),   a = (-1 - x) / std         (and so at white)

    x = m^-1(mean of the neighbours),   m(x) = E[clip(x + n)]

Sources: Tobin 1958 (doi:10.2307/1907382), one step of expectation maximisation; Foi 2009 (doi:10.1016/j.sigpro.2009.04.035), who inverts
the same mean m for what a denoiser gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as fn

NEAR = 1.0
"""Pixels: the width of the Gaussian by which neighbours count. In one as wide as 2.5 the gain is smaller by a hundredth of a decibel."""
BEYOND = 1.0
"""Standard deviations beyond black or white: where the neighbours say so much, the picture itself ends there, and nothing was cut off."""


def unclipped(picture: Tensor, std: float) -> Tensor:
    """The mean of the noisy picture before it was cut off, given what is left.

    Args:
        picture: `(b, c, h, w)` in [-1, 1]; what lies at -1 or 1 was cut off. One that goes beyond was not, and is given back.
        std: of the noise in every entry before it was cut off, in the picture's units; above 0.

    Returns:
        As `picture`, itself where nothing was cut off.
    """
    if not std > 0:
        raise ValueError(f"unclipped: expected a std above 0, got {std}")
    cut = picture.abs() >= 1
    if not cut.any() or (picture.abs() > 1).any() or min(picture.shape[-2:]) <= _radius():
        return picture
    x, _ = of_mean(_smooth(picture)[cut].double(), std)
    side = picture[cut].double().sign()
    x = side * x  # as if all were white
    clean = x.clamp(-1, 1)
    a = (1 - clean) / std
    density, share = torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(-a)
    beyond = (clean + std * density / share.clamp(min=1e-12)).clamp(1, 1 + 3 * std)
    beyond = torch.where(x > 1 + BEYOND * std, torch.ones_like(x), beyond)
    out = picture.clone()
    out[cut] = (side * beyond).to(picture)
    return out


def moments(x: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of N(x, std^2) clipped to [-1, 1]."""
    a, b = (-1 - x) / std, (1 - x) / std
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    at_a, at_b = (torch.exp(-v.square() / 2) / math.sqrt(2 * math.pi) for v in (a, b))
    inside = 1 - below - above
    mean = above - below + x * inside + std * (at_a - at_b)
    square = below + above + (x**2 + std**2) * inside + 2 * x * std * (at_a - at_b) + std**2 * (a * at_a - b * at_b)
    return mean, square - mean**2


def of_mean(mean: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """The x, within two standard deviations beyond [-1, 1], whose clipped N(x, std^2) has this mean, and the variance that it has."""
    x = torch.linspace(-1 - 2 * std, 1 + 2 * std, 1001, dtype=torch.float64)
    means, left = moments(x, std)
    after = torch.searchsorted(means, mean.cpu().double()).clamp(1, len(means) - 1)
    share = ((mean.cpu().double() - means[after - 1]) / (means[after] - means[after - 1])).clamp(0, 1)
    return tuple(torch.lerp(of[after - 1], of[after], share).to(mean) for of in (x, left))  # type: ignore[return-value]


def _radius() -> int:
    return math.ceil(3 * NEAR)


def _smooth(picture: Tensor) -> Tensor:
    """Means of the neighbours by a Gaussian; the picture goes on as its mirror image."""
    place = torch.arange(-_radius(), _radius() + 1).to(picture)
    weights = torch.exp(-(place / NEAR).square() / 2)
    rows = (weights / weights.sum()).expand(picture.shape[1], 1, 1, -1)
    across = fn.conv2d(fn.pad(picture, (_radius(), _radius(), 0, 0), mode="reflect"), rows, groups=len(rows))
    down = fn.pad(across, (0, 0, _radius(), _radius()), mode="reflect")
    return fn.conv2d(down, rows.transpose(2, 3), groups=len(rows))
