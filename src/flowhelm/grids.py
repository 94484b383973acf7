"""Time grids: `(steps + 1,)` float64 on the CPU, increasing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import torch
from torch import Tensor

from .flow import Flow
from .path import Path, linear, time_at_snr
from .shapes import State, Times


def uniform(steps: int, start: float = 0.0, stop: float = 1.0) -> Times:
    """Evenly spaced from start to stop."""
    return torch.linspace(start, stop, steps + 1, dtype=torch.float64)


def shifted(steps: int, shift: float = 3.0) -> Times:
    """The resolution shift of Esser et al. 2024 (arXiv:2403.03206, eq. 23), in our time: more steps near the source for shift > 1.

    With noise time u = 1 - t: u' = shift u / (1 + (shift - 1) u).
    """
    return reshifted(uniform(steps), shift)


def arc(steps: int) -> Times:
    """t = 1 - sqrt(1 - w^2) for evenly spaced w: small first steps, as RBF (arXiv:2503.19385) makes them."""
    return 1 - (1 - uniform(steps) ** 2).sqrt()


def logit(steps: int, mean: float = 0.0, std: float = 1.0) -> Times:
    """Quantiles of the logit-normal density: the grid is dense where SD3-type training (arXiv:2403.03206, eq. 19) was. Ends at 0 and 1."""
    return torch.sigmoid(mean + std * torch.special.ndtri(uniform(steps)))


def karras(steps: int, path: Path = linear, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Times:
    """Noise-to-signal ratios spaced as in Karras et al. 2022 (arXiv:2206.00364, eq. 5), from t = 0 (above `high`) to t = 1.

    Inner points have sigma / alpha from high down to low, evenly spaced in its 1/rho-th power.
    """
    ramp = torch.linspace(0, 1, max(steps - 1, 1), dtype=torch.float64)
    ratio = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    inner = time_at_snr(path, 1 / ratio)[: steps - 1]
    return torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])


def levels(steps: int, path: Path, high: float, low: float) -> Times:
    """Noise levels sigma / alpha evenly spaced in their logarithm from high to low, `steps` of them, and then t = 1.

    That of one step is `low`. The schedule of DPIR (Zhang et al. 2021, arXiv:2008.13751).
    """
    if not 0 < low <= high:
        raise ValueError(f"levels: expected 0 < low <= high, got low = {low:g} and high = {high:g}")
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)
    times = time_at_snr(path, 1 / (low * (high / low) ** ramp))
    return torch.cat([times, times.new_ones(1)])


def reshifted(times: Times, shift: float) -> Times:
    """Any grid with a shift more, as in `shifted`, whose composition multiplies: above 1 nearer to the source, below 1 to the clean end."""
    u = 1 - times
    return 1 - shift * u / (1 + (shift - 1) * u)


def between(times: Times, start: Tensor, stop: Tensor) -> Times:
    """The part of a grid from `start` to `stop` (0-dim), both included.

    A start or a stop between two times takes the place of the next one inside, where that is nearer to it than half a step: no
    evaluation is spent on a sliver. From the first time to the last, the grid itself.
    """
    inner = times[(times > start + 1e-9) & (times < stop - 1e-9)]
    step = times.diff()
    index = (torch.searchsorted(times, inner) - 1).clamp(0, len(step) - 1)
    room = step[index] / 2
    near = (inner - start < room) & (times - start).abs().min().gt(1e-9)
    near |= (stop - inner < room) & (times - stop).abs().min().gt(1e-9)
    ends = [start[None]] if stop - start < 1e-9 else [start[None], inner[~near], stop[None]]
    return torch.cat(ends)


def bellman(costs: Tensor, steps: int) -> Tensor:
    """The cheapest chain of `steps` jumps over n + 1 candidate points: indices `(steps + 1,)` from 0 to n.

    Args:
        costs: `(n + 1, n + 1)`; costs[i, j] is the price of one jump from point i to point j > i, others are ignored.

    Dynamic programme of BOSS (Nguyen et al. 2024, arXiv:2312.16414). Index a fine grid with it: `times[bellman(costs, 8)]`.
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


@torch.no_grad()
def traced(flow: Flow, x: State, times: Times) -> tuple[Tensor, Tensor]:
    """Euler's path along a fine grid: states `(n + 1, b, *shape)` and the velocities `(n, b, *shape)` at all of them but the last.

    n evaluations per row. What `local_costs` and `endpoint_costs` take.
    """
    states, velocities = [x], []
    for s, t in pairwise(times):
        velocities.append(flow.velocity(states[-1], s))
        states.append(states[-1] + (t - s) * velocities[-1])
    return torch.stack(states), torch.stack(velocities)


def local_costs(states: Tensor, velocities: Tensor, times: Times) -> Tensor:
    """What one Euler step in place of many misses, for `bellman`: `(n + 1, n + 1)` float64, on the CPU.

        costs[i, j] = mean over rows of |x_i + (t_j - t_i) v_i - x_j|^2,  i < j,  else 0

    The cost of BOSS (arXiv:2312.16414), summed over pixels; a batch of rows weighs as many as it has. It sums squares of errors as
    they are made: neither how the flow stretches them later nor that they all lean the same way is in it.
    """
    n = len(times) - 1
    costs = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    for i in range(n):
        h = (times[i + 1 :] - times[i]).to(states).view(-1, *(1,) * (states.ndim - 1))
        miss = torch.addcmul(states[i] - states[i + 1 :], h, velocities[i])
        costs[i, i + 1 :] = miss.square().flatten(2).sum(2).mean(1).double().cpu()
    return costs


@torch.no_grad()
def endpoint_costs(flow: Flow, states: Tensor, velocities: Tensor, times: Times) -> Tensor:
    """What the same step's error has become at the end, after fine steps from t_j on: `(n + 1, n + 1)` float64, on the CPU.

        costs[i, j] = mean over rows of |fine(x_i + (t_j - t_i) v_i, t_j -> t_n) - x_n|^2

    Not in the paper, whose `local_costs` ignore how an error grows. n (n - 1) (n - 2) / 6 evaluations per row: take a grid of 12 to
    30 times. The batch is evaluated as it stands, so that what a flow is told of its rows holds.
    """
    n, width = len(times) - 1, states.shape[1]
    costs = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    pool = states[:0].flatten(0, 1)
    pairs = [(i, j) for j in range(2, n + 1) for i in range(j - 1)]
    for j in range(2, n + 1):  # a step from t_{j-1} is a fine step itself and misses nothing
        pool = torch.cat([pool, *(states[i] + (times[j] - times[i]) * velocities[i] for i in range(j - 1))])
        if j < n:
            slopes = [flow.velocity(some, times[j]) for some in pool.split(width)]
            pool = pool + (times[j + 1] - times[j]) * torch.cat(slopes)
    miss = (pool.unflatten(0, (-1, width)) - states[-1]).square().flatten(2).sum(2).mean(1)
    costs[tuple(torch.tensor(pairs).T)] = miss.double().cpu()
    return costs


def descended(price: Callable[[Tensor], float], chain: Tensor) -> Iterator[tuple[Tensor, float]]:
    """A chain of indices improved one at a time: each inner index is moved by 8, 4, 2 and 1 points while that pays.

    Args:
        price: of a chain, such as the error at the end that a solver makes on `times[chain]`; any solver will do.
        chain: where to begin, rising; its ends stay, and so does its order.

    Yields the best chain and its price so far, after every call of `price`.
    """
    best = price(chain)
    yield chain, best
    for stride in (8, 4, 2, 1):
        paid = True
        while paid:  # until no index of the chain gains by a move
            paid = False
            for k, way in product(range(1, len(chain) - 1), (stride, -stride)):
                moved = chain.clone()
                moved[k] += way
                if not chain[k - 1] < moved[k] < chain[k + 1]:
                    continue
                found = price(moved)
                if found < best:
                    chain, best, paid = moved, found, True
                yield chain, best
