"""How wrong a velocity is at each time, and weights of the prior over time made of it.

    error(t) = E|v(x_t, t) - (d/dt) x_t|^2 / d,    weight = 1 / error, 1 on average over the grid

What `flowhelm presets velocity` measures and `restore.flair` is weighted with: Erbach et al. 2025, arXiv:2506.02680.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .flow import Flow
from .path import at, mix
from .rng import Noise
from .shapes import Time, Times

Weights = Callable[[Tensor], Tensor]
"""Time -> weight of the prior, 1 on average over all times; both 0-dim."""


@torch.no_grad()
def squares(flow: Flow, clean: Tensor, t: Time, noise: Noise) -> Tensor:
    """Mean square error of the velocity for clean - source, given x_t, of each row: `(b,)`, float64 on the CPU; 0-dim t."""
    source = noise(clean)
    velocity = flow.velocity(mix(flow.path, source, clean, t), t)
    c = at(flow.path, t, clean)
    return (velocity - c.d_sigma * source - c.d_alpha * clean).double().square().flatten(1).mean(1).cpu()


def errors(flow: Flow, clean: Tensor, times: Times, noise: Noise) -> Tensor:
    """Mean square error of the velocity for clean - source, given x_t, at each time: `times`-shaped, float64 on the CPU.

    For `clean` states `(b, *shape)`, one evaluation and one draw per time; repeat it for a mean. The least that any network
    can reach is tr Cov[clean - source | x_t] / d, and t -> d / tr Cov is what weights the prior.
    """
    return torch.stack([squares(flow, clean, t, noise).mean() for t in times])


def reciprocal(error: Tensor) -> Tensor:
    """The weights that errors `(k,)` on a grid of times give: their reciprocals, 1 on average."""
    r = 1 / (error.double() + 1e-7)
    return r / r.mean()


def normal(t: Time) -> Tensor:
    """The weights of the exact flow of N(0, I), whose error is 1 / (t^2 + (1-t)^2)."""
    return 1.5 * (t**2 + (1 - t) ** 2)


def table(t: Time, r: Tensor) -> Weights:
    """Weights r `(k,)` at increasing times t `(k,)` as a function of the time, linear in between and constant beyond."""
    t, r = t.double().cpu(), r.double().cpu()
    if t.ndim != 1 or t.shape != r.shape or len(t) < 2 or not (t.diff() > 0).all() or not (r >= 0).all():
        raise ValueError(
            f"table: expected at least 2 increasing times and as many weights >= 0, got {tuple(t.shape)} and {tuple(r.shape)}"
        )

    def weights(time: Tensor) -> Tensor:
        k = int(torch.searchsorted(t, time.double().cpu()).clamp(1, len(t) - 1))
        share = ((time - t[k - 1]) / (t[k] - t[k - 1])).clamp(0, 1)
        return r[k - 1] + share * (r[k] - r[k - 1])

    return weights
