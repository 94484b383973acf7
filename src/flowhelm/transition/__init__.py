"""One move of the state from time s to a later time t."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..flow import Flow
from ..path import Ends
from ..rng import Noise
from . import diffusion, resize
from .draw import Moments, shifted
from .gaussian import ancestral, ancestral_moments, noised, renoise, renoise_moments
from .glass import glass, glass_estimate
from .langevin import langevin, langevin_corrected, langevin_moments
from .ode import euler, heun, midpoint, rk4

Transition = Callable[[Flow, Tensor, Tensor, Tensor, Noise | None, Ends | None], Tensor]
"""`move(flow, x, s, t, noise, ends=None) -> x` at t. `ends` are those of x at s, if the caller has them already."""

ALL = (euler, midpoint, heun, rk4, ancestral, langevin, renoise, glass)

__all__ = [
    "ALL",
    "Moments",
    "Transition",
    "ancestral",
    "ancestral_moments",
    "diffusion",
    "euler",
    "glass",
    "glass_estimate",
    "heun",
    "langevin",
    "langevin_corrected",
    "langevin_moments",
    "midpoint",
    "noised",
    "renoise",
    "renoise_moments",
    "resize",
    "rk4",
    "shifted",
]
