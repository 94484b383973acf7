"""Stochastic interpolants: between any two laws, through noise. Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797.

    x_t = alpha start + beta end + gamma z,  z ~ N(0, 1),  (start, end) ~ any coupling
    velocity b = E[alpha' start + beta' end + gamma' z | x_t],  denoiser eta = E[z | x_t],  score = -eta / gamma

Families of weights, and what follows from the two fields; `train.interpolant` has their losses, `solve.interpolate` samples.
Of the paper's families those linear in start and end. A one-sided interpolant has the Gaussian end in z's place (start has no
weight), so that its velocity, denoiser and score are those of every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .path import Path
from .path import linear as straight
from .shapes import State, Time


class Weights(NamedTuple):
    """The weights of start, end and z, and their derivatives in t, each shaped as t."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    d_alpha: Tensor
    d_beta: Tensor
    d_gamma: Tensor


class Means(NamedTuple):
    """E[start | x_t], E[end | x_t] and E[z | x_t], each `(b, ...)`: alpha start + beta end + gamma noise = x_t."""

    start: Tensor
    end: Tensor
    noise: Tensor


Interpolant = Callable[[Tensor], Weights]
Field = Callable[[Tensor, Tensor], Tensor]
"""States `(b, ...)` and times (`(b,)` in training, 0-dim float64 in sampling) -> `(b, ...)`; `NetFlow.velocity` is one."""


def _bridge(t: Time, scale: float) -> tuple[Tensor, Tensor]:
    """gamma = sqrt(scale t (1-t)) and its derivative, infinite at both ends."""
    gamma = (scale * t * (1 - t)).sqrt()
    return gamma, (scale * (1 - 2 * t) / (2 * gamma) if scale else gamma)


def linear(scale: float = 1.0) -> Interpolant:
    """alpha = 1-t, beta = t, gamma = sqrt(scale t (1-t)). scale 0 has no noise: flow matching between two laws."""

    def weights(t: Time) -> Weights:
        gamma, d_gamma = _bridge(t, scale)
        return Weights(1 - t, t, gamma, -torch.ones_like(t), torch.ones_like(t), d_gamma)

    return weights


def trigonometric(scale: float = 1.0) -> Interpolant:
    """alpha = cos(pi t / 2), beta = sin(pi t / 2), gamma = sqrt(scale t (1-t))."""

    def weights(t: Time) -> Weights:
        a, (gamma, d_gamma) = math.pi / 2 * t, _bridge(t, scale)
        return Weights(a.cos(), a.sin(), gamma, -math.pi / 2 * a.sin(), math.pi / 2 * a.cos(), d_gamma)

    return weights


def encoder_decoder(t: Time) -> Weights:
    """start fades into pure noise at t = 1/2 and end out of it: cos^2 pi t each on its half, gamma = sin^2 pi t."""
    near, slope, first = torch.cos(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t), t < 0.5
    zero = torch.zeros_like(t)
    alpha, d_alpha = torch.where(first, near, zero), torch.where(first, -slope, zero)
    return Weights(alpha, near - alpha, torch.sin(math.pi * t) ** 2, d_alpha, -slope - d_alpha, slope)


def one_sided(path: Path = straight) -> Interpolant:
    """A standard normal start, in z's place: alpha = 0, beta and gamma the clean and source weights of a `Path`; section 3.2."""

    def weights(t: Time) -> Weights:
        c = path(t)
        return Weights(torch.zeros_like(t), c.alpha, c.sigma, torch.zeros_like(t), c.d_alpha, c.d_sigma)

    return weights


def mirror(scale: float = 1.0) -> Interpolant:
    """From a law to itself through noise: alpha = 0, beta = 1, gamma = sqrt(scale t (1-t)); b = gamma' eta. Section 3.3."""

    def weights(t: Time) -> Weights:
        gamma, d_gamma = _bridge(t, scale)
        zero = torch.zeros_like(t)
        return Weights(zero, torch.ones_like(t), gamma, zero, zero, d_gamma)

    return weights


def weights_at(interpolant: Interpolant, t: Time, like: Tensor) -> Weights:
    """The weights ready to multiply `like`: 0-dim in float64 for a 0-dim t, else `(b, 1, ...)` as `like`; as `path.at`."""
    if t.ndim == 0:
        return interpolant(t.double())
    return Weights(*(c.to(like).reshape(-1, *(1,) * (like.ndim - 1)) for c in interpolant(t.double())))


def score(interpolant: Interpolant, denoiser: Tensor, t: Time) -> Tensor:
    """grad log p_t(x) = -eta / gamma, where gamma > 0."""
    return -denoiser / weights_at(interpolant, t, denoiser).gamma


def drift(interpolant: Interpolant, velocity: Tensor, denoiser: Tensor, t: Time) -> Tensor:
    """E[alpha' start + beta' end | x_t] = b - gamma' eta (the paper's v; equal to b + gamma gamma' score)."""
    return velocity - weights_at(interpolant, t, velocity).d_gamma * denoiser


def velocity(interpolant: Interpolant, drift: Tensor, denoiser: Tensor, t: Time) -> Tensor:
    """b = drift + gamma' eta = drift - gamma gamma' score: what `drift` undoes."""
    return drift + weights_at(interpolant, t, drift).d_gamma * denoiser


def means(interpolant: Interpolant, velocity: Tensor, denoiser: Tensor, x: State, t: Time) -> Means:
    """The three conditional means from b and eta: solves alpha e_0 + beta e_1 = x - gamma eta, alpha' e_0 + beta' e_1 = drift.

    Raises:
        ValueError: where alpha beta' - alpha' beta = 0: always for one-sided, mirror and encoder-decoder, never for the others.
    """
    w = weights_at(interpolant, t, x)
    left, right = x - w.gamma * denoiser, drift(interpolant, velocity, denoiser, t)
    det = w.alpha * w.d_beta - w.d_alpha * w.beta
    if (det == 0).any():
        raise ValueError(
            "means: expected an interpolant whose state tells start from end, got alpha beta' = alpha' beta; "
            "where one of the two weighs nothing the other is (x - gamma eta) / its weight"
        )
    return Means(
        (w.d_beta * left - w.beta * right) / det, (w.alpha * right - w.d_alpha * left) / det, denoiser
    )  # fmt: skip
