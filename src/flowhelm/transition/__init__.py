"""One move of the state from time s to a later time t."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..flow import Flow
from ..path import Ends
from ..rng import Noise
from . import diffusion
from .gaussian import ancestral, ancestral_moments, langevin, langevin_moments, renoise, renoise_moments
from .ode import euler, heun, midpoint

Transition = Callable[[Flow, Tensor, Tensor, Tensor, Noise | None, Ends | None], Tensor]
"""`move(flow, x, s, t, noise, ends=None) -> x` at t. `ends` are those of x at s, if the caller has them already."""

ALL = (euler, midpoint, heun, ancestral, langevin, renoise)

__all__ = [
    "ALL",
    "Transition",
    "ancestral",
    "ancestral_moments",
    "diffusion",
    "euler",
    "heun",
    "langevin",
    "langevin_moments",
    "midpoint",
    "renoise",
    "renoise_moments",
]
