"""Weights of particles: k per prompt, batch-flattened `(b * k, ...)`, log-weights `(b, k)`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rng import Noise


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2, between 1 and k: `(b, k) -> (b,)`."""
    return (2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1)).exp()


def systematic(log_w: Tensor, noise: Noise) -> Tensor:
    """Systematic resampling: indices `(b * k,)` into the flattened batch, each row drawn within itself.

    One uniform number per row places k evenly spaced pointers on the cumulated weights, so that a particle of weight w
    is taken floor(k w) or ceil(k w) times, k w on average. `noise` has b * k streams, of which the first of each row is
    used (or b streams). Permute states, ends and rewards with the result; streams stay where they are.
    """
    b, k = log_w.shape
    start = noise.uniform().view(b, -1)[:, :1]
    pointers = (start + torch.arange(k, dtype=torch.float64)) / k
    edges = log_w.double().cpu().softmax(1).cumsum(1)
    pick = torch.searchsorted(edges / edges[:, -1:], pointers, right=True).clamp(max=k - 1)
    return (pick + k * torch.arange(b)[:, None]).flatten().to(log_w.device)


def resampled(log_w: Tensor, noise: Noise, threshold: float) -> tuple[Tensor, Tensor]:
    """Resamples the rows whose effective sample size is below threshold * k, and leaves the others as they are.

    Returns:
        Indices `(b * k,)` into the flattened batch, and the weights after it `(b, k)`: the mean weight of a row that was
        resampled, so that logsumexp(log_w) - log k stays what it was. A row without any weight is not resampled.
    """
    b, k = log_w.shape
    pick = systematic(log_w, noise)  # drawn whether needed or not: a row must not see its neighbours
    low = ess(log_w) < threshold * k
    mean = log_w.logsumexp(1, keepdim=True) - math.log(k)
    stay = torch.arange(b * k, device=log_w.device)
    return torch.where(low.repeat_interleave(k), pick, stay), torch.where(low[:, None], mean, log_w)


def anneal(log_w: Tensor, log_likelihood: Tensor, spent: Tensor, target: float) -> Tensor:
    """The next temperature of each row: the largest in (spent, 1] that keeps the effective sample size at `target` * k.

    Args:
        log_w: weights so far, `(b, k)`; log_likelihood: `(b, k)`, still to be multiplied in with exponent 1 - spent.
        spent: exponent already used, `(b,)` in [0, 1].

    The effective size falls as the exponent grows, so bisection finds it (Del Moral et al. 2012, section 3.2).
    """
    k = log_w.shape[1]
    low, high = spent.clone(), torch.ones_like(spent)
    size = lambda e: ess(log_w + (e - spent)[:, None] * log_likelihood)  # noqa: E731
    whole = size(high) >= target * k
    for _ in range(50):
        middle = (low + high) / 2
        fits = size(middle) >= target * k
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(whole, torch.ones_like(low), low)
