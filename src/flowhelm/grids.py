"""Time grids: `(steps + 1,)` float64 on the CPU, increasing."""

from __future__ import annotations

import torch
from torch import Tensor

from .path import Path, linear, time_at_snr


def uniform(steps: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Evenly spaced from start to stop."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64)


def shifted(steps: int, shift: float) -> Tensor:
    """The resolution shift of Esser et al. 2024 (arXiv:2403.03206, eq. 23), in our time: more steps near the source for shift > 1.

    With noise time u = 1 - t: u' = shift u / (1 + (shift - 1) u).
    """
    u = 1 - uniform(steps)
    return 1 - shift * u / (1 + (shift - 1) * u)


def arc(steps: int) -> Tensor:
    """t = 1 - sqrt(1 - w^2) for evenly spaced w: small first steps, as RBF (arXiv:2503.19385) makes them."""
    return 1 - (1 - uniform(steps) ** 2).sqrt()


def logit(steps: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Quantiles of the logit-normal density: the grid is dense where SD3-type training (arXiv:2403.03206, eq. 19) was. Ends at 0 and 1."""
    return torch.sigmoid(mean + std * torch.special.ndtri(uniform(steps)))


def karras(steps: int, path: Path = linear, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """Noise-to-signal ratios spaced as in Karras et al. 2022 (arXiv:2206.00364, eq. 5), from t = 0 (above `high`) to t = 1.

    Inner points have sigma / alpha from high down to low, evenly spaced in its 1/rho-th power.
    """
    ramp = torch.linspace(0, 1, max(steps - 1, 1), dtype=torch.float64)
    ratio = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    inner = time_at_snr(path, 1 / ratio)[: steps - 1]
    return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])


def levels(steps: int, path: Path, high: float, low: float) -> Tensor:
    """Noise levels sigma / alpha evenly spaced in their logarithm from high to low, `steps` of them, and then t = 1.

    That of one step is `low`. The schedule of DPIR (Zhang et al. 2021, arXiv:2008.13751).
    """
    if not 0 < low <= high:
        raise ValueError(f"levels: expected 0 < low <= high, got low = {low:g} and high = {high:g}")
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    times = time_at_snr(path, 1 / (low * (high / low) ** ramp))
    return torch.cat([times, times.new_ones(1)])


def bellman(costs: Tensor, steps: int) -> Tensor:
    """The cheapest chain of `steps` jumps over n + 1 candidate points: indices `(steps + 1,)` from 0 to n.

    Args:
        costs: `(n + 1, n + 1)`; costs[i, j] is the price of one jump from point i to point j > i, others are ignored.

    Dynamic programme of BOSS (Nguyen et al. 2023, arXiv:2312.02339). Index a fine grid with it: `times[bellman(costs, 8)]`.
    """
    n = len(costs) - 1
    if not 1 <= steps <= n:
        raise ValueError(f"bellman: expected 1 to {n} steps for {n + 1} points, got {steps}")
    jump = costs.double().cpu().masked_fill(torch.ones(n + 1, n + 1, dtype=torch.bool).tril(), torch.inf)
    best, back = jump[0], []
    for _ in range(steps - 1):
        best, origin = (best[:, None] + jump).min(0)
        back.append(origin)
    chain = [n]
    for origin in reversed(back):
        chain.append(int(origin[chain[-1]]))
    return torch.tensor([0, *reversed(chain)])
