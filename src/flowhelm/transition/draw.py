"""Draws of a normal law, and what it costs in weight to shift one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..flow import Flow
from ..grad import dot
from ..path import Ends
from ..rng import Noise

Moments = Callable[[Flow, Tensor, Tensor, Tensor, Ends | None], tuple[Tensor, Tensor]]
"""(flow, x, s, t, ends) -> mean, shaped as x, and standard deviation, 0-dim, of a random move."""


def shifted(mean: Tensor, std: Tensor, shift: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """x' ~ N(mean + shift, std^2) and its log-ratio log N(x'; mean, std^2) - log N(x'; mean + shift, std^2), `(b,)`.

    What a proposal costs in weight. Without noise (std 0) there is no shift: nothing could pay for it.
    """
    if not std.any():
        return mean, mean.new_zeros(len(mean))
    z = normal(mean, noise, "shifted")
    # in terms of z, not of x' - mean - shift: that is a small difference of large numbers
    return mean + shift + std * z, -dot(shift, z) / std - dot(shift, shift) / (2 * std**2)


def drawn(mean: Tensor, std: Tensor, noise: Noise | None, who: str) -> Tensor:
    """One draw of N(mean, std^2); `who` asks, and needs no noise where std is 0."""
    return mean + std * normal(mean, noise, who) if std.any() else mean


def normal(like: Tensor, noise: Noise | None, who: str) -> Tensor:
    if noise is None:
        raise ValueError(
            f"{who}: expected a Noise (one stream per row) for a random move, got None; pass noise=Noise(seed, rows=len(x))"
        )
    return noise(like)
