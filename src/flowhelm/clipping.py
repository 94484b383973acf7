"""Noise that a file cuts off at black and white: its moments, and the picture as it was before, as far as it can be known.

    y = unclipped(picture, std)      # (b, c, h, w) in [-1, 1] as a file holds it -> values beyond black and white, too

A restorer believes that noise is as often up as down. Where it was cut off at black, what is left of it lies above: 0.4 of its standard
deviation on average, so that shadows come back grey and highlights dull. Of a value that was cut off it is known that it was beyond
(it is censored, as statistics has it); its mean is that of a normal variable given so much. With d the distance from black or white,
delta that of the clean picture there and u = delta / std:

    E[d | cut off] = delta - std phi(u) / Phi(-u),     std f(u) = mean of the neighbours' d,     f(u) = u Phi(u) + phi(u)

Noise of a camera is weaker in the shadows than the one level that is said of it. How strong it is around a place is seen by its mean and
its variance together, whose quotient is a function of u alone; the weaker one of both counts.

Sources: Tobin 1958 (doi:10.2307/1907382), one step of expectation maximisation; Foi 2009 (doi:10.1016/j.sigpro.2009.04.035), who takes
the bias of what is left off a denoiser's result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as fn

NEAR, BLOCK = 5, 4
"""Pixels of a side: of the window around a value in which the mean is taken, and of the blocks of which three by three show how strong
the noise is."""
BEYOND = 1.0
"""Standard deviations beyond black or white: where the neighbours say so much, the picture itself ends there, and nothing was cut off."""


def unclipped(picture: Tensor, std: float) -> Tensor:
    """The mean of the noisy picture before it was cut off, given what is left.

    Args:
        picture: `(b, c, h, w)` in [-1, 1]; what lies at -1 or 1 was cut off. One that goes beyond was not, and is given back.
        std: of the noise before it was cut off, in the picture's units, above 0; where it is seen to be weaker, that counts.

    Returns:
        As `picture`, itself where nothing was cut off.
    """
    if not std > 0:
        raise ValueError(f"unclipped: expected a std above 0, got {std}")
    cut = picture.abs() >= 1
    if not cut.any() or (picture.abs() > 1).any() or min(picture.shape[-2:]) <= 2 * BLOCK:
        return picture
    side = picture[cut].sign()
    wide, square = (_coarse(each)[cut].double() for each in (picture, picture.square()))
    power = (square - wide.square()).clamp(min=0)
    grid = torch.linspace(-4, 8, 2401, dtype=torch.float64)
    mean, variance = _above(grid)
    u = _looked_up(mean / variance.sqrt(), grid, (1 - side * wide) / power.sqrt().clamp(min=1e-9))
    strength = (power / _above(u)[1]).sqrt().clamp(1e-3 * std, std)
    u = _looked_up(mean, grid, (1 - side * _around(picture, NEAR)[cut]).double() / strength)
    inside = u.clamp(min=0)
    density = torch.exp(-inside.square() / 2) / math.sqrt(2 * math.pi)
    beyond = strength * (density / torch.special.ndtr(-inside) - inside)
    out = picture.clone()
    out[cut] = side * (1 + torch.where(u < -BEYOND, 0, beyond).to(picture))
    return out


def _above(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of max(0, N(u, 1))."""
    inside, density = torch.special.ndtr(u), torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    mean = u * inside + density
    return mean, (u.square() + 1) * inside + u * density - mean.square()


def _looked_up(of: Tensor, what: Tensor, at: Tensor) -> Tensor:
    """`what` where `of`, which grows along the table, is `at`; at its ends where it is less or more."""
    after = torch.searchsorted(of, at.cpu()).clamp(1, len(of) - 1)
    share = ((at.cpu() - of[after - 1]) / (of[after] - of[after - 1])).clamp(0, 1)
    return torch.lerp(what[after - 1], what[after], share).to(at)


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
    return _looked_up(means, x, mean.double()).to(mean), _looked_up(means, left, mean.double()).to(mean)


def _around(picture: Tensor, side: int) -> Tensor:
    """Means over windows of so many pixels a side; the picture goes on as its mirror image."""
    wide = fn.pad(picture, (side // 2,) * 4, mode="reflect")
    return fn.avg_pool2d(fn.avg_pool2d(wide, (side, 1), 1), (1, side), 1)


def _coarse(picture: Tensor) -> Tensor:
    """Means over about three by three blocks, as large as the picture."""
    blocks = _around(fn.avg_pool2d(picture, BLOCK, ceil_mode=True), 3)
    return fn.interpolate(blocks, size=picture.shape[-2:], mode="nearest")
