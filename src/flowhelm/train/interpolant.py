"""Losses of stochastic interpolants: from any law to any other. Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797.

    x_t = alpha start + beta end + gamma z,  z ~ N(0, 1),  (start, end) ~ any coupling
    velocity_loss = 1/2 |b|^2 - (alpha' start + beta' end + gamma' z) . b,  denoiser_loss = 1/2 |eta|^2 - z . eta

Needs   batches of pairs; two networks for an SDE, the velocity's alone for the ODE
Cost    2 evaluations, 2 backward per loss: x_t is drawn with z and with -z
Paper   Losses are means over a state's elements, the paper's sums divided by their number; they have no least value of 0.
        The denoiser is learnt, not the score: its target has variance 1 at every time. A Gaussian-source `Flow` needs none of
        this: its score follows from its velocity, so `integrate` with the transition `langevin(diffusion=...)` is its SDE.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..interpolant import Field, Interpolant, weights_at
from .flow_matching import normal
from .times import Density, draw, uniform


def velocity_loss(
    velocity: Field, start: Tensor, end: Tensor, generator: torch.Generator, *, interpolant: Interpolant,
    density: Density = uniform,
) -> Tensor:  # fmt: skip
    """L_b of every row `(b,)`; its minimiser is b, and what lies above the minimum is half the mean squared error of b.

    Args:
        velocity: b(x, t). start, end: paired states `(b, ...)`. density: of the time; see `train.times`.

    In `fit`: `lambda flow, batch, g: velocity_loss(flow.velocity, starts(batch), batch.clean, g, interpolant=linear())`.
    """
    t, pair = _pair(interpolant, start, end, density, generator)
    return sum(_quadratic(velocity(x, t), target) for x, target, _ in pair) / 2  # type: ignore[return-value]


def denoiser_loss(
    denoiser: Field, start: Tensor, end: Tensor, generator: torch.Generator, *, interpolant: Interpolant,
    density: Density = uniform,
) -> Tensor:  # fmt: skip
    """L_eta of every row `(b,)`; its minimiser is eta = E[z | x_t]. Arguments and draws are those of `velocity_loss`."""
    t, pair = _pair(interpolant, start, end, density, generator)
    return sum(_quadratic(denoiser(x, t), z) for x, _, z in pair) / 2  # type: ignore[return-value]


def _quadratic(predicted: Tensor, target: Tensor) -> Tensor:
    """1/2 |predicted - target|^2 less 1/2 |target|^2, whose mean may be infinite: gamma'^2 is as 1/t."""
    return (predicted.square() / 2 - target * predicted).flatten(1).mean(1)


def _pair(
    interpolant: Interpolant, start: Tensor, end: Tensor, density: Density, generator: torch.Generator
) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Times, and (x_t, the velocity's target, z) for z and for -z: their pair has a bounded variance where gamma' has not."""
    t = draw(density, len(end), generator).to(end)
    w, z = weights_at(interpolant, t, end), normal(end, generator)
    middle, rate = w.alpha * start + w.beta * end, w.d_alpha * start + w.d_beta * end
    return t, [(middle + w.gamma * z, rate + w.d_gamma * z, z) for z in (z, -z)]
