"""Controls: what they cost, in which unit their strength is given, and the plan of one step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .entry import NonNegative
from .flow import Flow
from .inner import Inner
from .measure import Measurement
from .path import Ends, ends_from_clean, linear
from .prox import leeway, refined
from .shapes import State, Time, Times
from .step import Reward

Energy = Callable[[Tensor, Tensor], Tensor]
"""Time of a control and length of its step -> its weight w on |u|^2, each 0-dim."""


def integral(t: Time, h: Tensor) -> Tensor:
    """The paper's energy, int |u(t)|^2 dt: w = h."""
    return h


def algorithm2(t: Time, h: Tensor) -> Tensor:
    """The paper's Algorithm 2 as printed: w = 1, whatever the step; equals `integral` at strength q h."""
    return torch.ones_like(h)


def flux2(t: Time, h: Tensor, *, rho: NonNegative = 1.0) -> Tensor:
    """The released FLUX.2 code: rho t |delta|^2 on the displacement delta = h u, so w = rho t h^2; its strength is 1.

    It is 0 at t = 0, where nothing bounds the control but the iterations of its solver; a closed solution takes it as at least
    0.001 h^2 (`leeway`).
    """
    return rho * t * h**2


def flower(t: Time, h: Tensor) -> Tensor:
    """Not MPC's: w = (t^2 + (1-t)^2) h^2 / (2 (1-t)^2), for which the K = 1 prox at strength 1 / std^2 is the posterior mean under
    Cov[clean | x_t] = (1-t)^2 / (t^2 + (1-t)^2) I. With renoise = 1 that is Flower (Pourya et al. 2026, gamma = 0)."""
    return (t**2 + (1 - t) ** 2) * h**2 / (2 * (1 - t) ** 2)


ENERGIES = (integral, algorithm2, flux2, flower)


def planned(
    flow: Flow, reward: Reward, x: State, s: Time, ends: Ends, strength: float, energy: Energy, inner: Inner
) -> Ends:
    """The ends at x that a plan of one step, MPC-Flow's K = 1, goes by; the network is not asked.

    clean is argmin_z w |z - clean|^2 / h^2 - strength reward(decode(z)), w = energy(s, h), h = 1 - s. For s < 1.
    """
    h = 1 - s
    clean = refined(flow, reward, ends.clean, leeway(strength, energy(s, h), h), h, inner)
    return ends_from_clean(flow.path, clean, x, s)


def scale(reward: Reward, strength: float) -> float:
    """lambda, the factor of the reward: strength * std^2 for a measurement, so that strength is the weight of |A z - y|^2 / 2."""
    if not strength > 0:
        raise ValueError(f"control: expected a strength above 0, got {strength}")
    return strength * reward.std**2 if isinstance(reward, Measurement) else strength


def check(flow: Flow, times: Times, who: str) -> None:
    if flow.path is not linear:
        raise ValueError(
            f"{who}: expected a prior on the linear path, got {flow.path}; wrap it: guide.on_path(flow, path.linear)"
        )
    if len(times) < 2 or times[-1] != 1 or (times.diff() <= 0).any():
        raise ValueError(
            f"{who}: expected increasing times that end at 1, got {times.tolist()[:3]} ... {times.tolist()[-1:]}"
        )
