"""Picard: Euler's steps, many at once. ParaDiGMS, Shih et al. 2023, arXiv:2305.16317, Alg. 1.

    x_{k+1} <- x_first + sum_{first <= j <= k} (t_{j+1} - t_j) v(x_j, t_j)       all k of a window in one batch
    the window moves on by what changed less than the tolerance, one step at least

Needs   any prior
Cost    a batch of `window` evaluations per sweep, N sweeps at most, so more evaluations than N, and less time only where a batch costs
        less than its rows (a device with room). One wait for the device per sweep. Memory: N states, a batch of `window`
Paper   Tolerance 0.1 of the noise to be added, mean square; deviations: root mean square of the state's change, the same for all steps,
        and for the worst row, so that a row is as exact in any batch. Tolerance 0 is Euler's path but for rounding.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.picard(flow, flow.source(noise), flow.times(16), tolerance=0.02))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import Count, NonNegative, checked
from ..fixed_point import jacobi
from ..flow import Flow
from ..path import ends_from_velocity
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def picard(
    flow: Flow,
    x: State,
    times: Times,
    *,
    tolerance: NonNegative = 0.01,
    window: Count | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Picard: Euler's steps, many at once. ParaDiGMS, Shih et al. 2023, arXiv:2305.16317.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        tolerance: root mean square change below which a state is settled.
        window: steps in a batch; default: all.

    Yields one step per time, as soon as it is settled; info["sweeps"], 0-dim.
    """
    total = len(times) - 1
    lengths = times.diff().to(x).view(1, -1, *(1,) * (x.ndim - 1))
    cleans = x[:, None].expand(-1, total, *x.shape[1:]).clone()

    def update(states: Tensor, first: int, stop: int) -> Tensor:
        begun = states[:, first - 1] if first else x
        here = torch.cat([begun[:, None], states[:, first : stop - 1]], 1)
        z, when = here.flatten(0, 1), times[first:stop].repeat(len(x))
        v = flow.velocity(z, when.to(z.device))
        cleans[:, first:stop] = ends_from_velocity(flow.path, v, z, when.to(z.device)).clean.view_as(here)
        return begun[:, None] + (lengths[:, first:stop] * v.view_as(here)).cumsum(1)

    done = 0
    for sweep in jacobi(update, cleans.clone(), tolerance=tolerance, window=window):
        for k in range(done, sweep.settled):
            info = {"sweeps": torch.tensor(sweep.sweeps)}
            yield Step(k + 1, total, times[k + 1], sweep.x[:, k], cleans[:, k].clone(), info)
        done = sweep.settled
