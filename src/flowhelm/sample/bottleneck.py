"""Bottleneck sampling: the middle of the way at a smaller size. Tian et al. 2025, arXiv:2503.18940.

    large,  0 -> down      layout                     times up to `down`
    small,  .. -> up       most of the steps          the smaller prior's own grid, or `times` shifted
    large,  .. -> 1        detail                     the rest of times

    down    pool: averages, at the time where their noise is right     or renoise: alpha resize(E[clean | x_t]) + sigma noise at t
    up      repeat: pixels repeated, and the noise that they lack      or renoise: the same at the earlier time t - back

Needs   a prior that takes any size (`sized`): photos, pipelines
Cost    1 evaluation per step, those of the small size at 1 / factor^2 of the pixels, and 1 for each renoise; info["rows"] says which
Paper   Three stages, renoised at each change, another shift for each stage, Lanczos. Its numbers of steps, strengths of noise and
        shifts are not public. Deviations: pool and repeat by default, after RALU (arXiv:2507.08422), since renoising loses
        contrast (docs/grids.md); the times of the changes are ours; bicubic, as torch has no Lanczos. Position embeddings
        and the shift by tokens come from `sized`. Every stage is a new run of the solver: no history crosses a change of size.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("photos").sized(64, 64), Noise(0, rows=1)
    final = run(sample.bottleneck(flow, flow.source(noise), flow.times(12), noise=noise))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from ..entry import Fraction, Positive, checked
from ..flow import Flow
from ..grids import between, reshifted
from ..rng import Noise
from ..shapes import State, Times
from ..solve import integrate
from ..step import Step
from ..transition import resize


@checked
@torch.no_grad()
def bottleneck(
    flow: Flow,
    x: State,
    times: Times,
    *,
    factor: Annotated[int, Ge(2)] = 2,
    down: Fraction = 0.05,
    up: Annotated[float, Ge(0), Lt(1)] = 0.9,
    back: Fraction = 0.1,
    smaller: Literal["pool", "renoise"] = "pool",
    larger: Literal["repeat", "renoise"] = "repeat",
    shift: Positive | None = None,
    solver: Callable[..., Iterator[Step]] = integrate,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Bottleneck sampling: the middle of the way at a smaller size. Tian et al. 2025, arXiv:2503.18940.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        factor: how many times smaller a side is in the middle.
        down, up: times at which the size changes; with down = 1, or up not above down, it does not.
        back: how far back in time the renoised larger state is put, for the solver to draw the detail that it lacks.
        smaller, larger: how the size changes.
        shift: of the times in the middle, over `times`; below 1 later. Default: the grid that the smaller prior has for as many steps.
        solver: of each stage, `solver(flow, x, times, noise=...)`.

    Yields steps whose x is of its stage's size; clean is always of the whole size, for previews. info["rows"] is the share of the
    whole size's pixels that the step's evaluations saw, 0-dim.

    Raises:
        ValueError: a prior of one size, or a side that the factor does not divide.
    """
    small = resize.smaller(flow, factor) if down < min(up, 1) else flow
    middle = small.times(len(times) - 1) if shift is None else reshifted(times, shift)
    end = times[-1] if small is flow else torch.tensor(down, dtype=times.dtype)
    plan: list[tuple[Flow, Tensor]] = [(flow, between(times, times[0], end))]
    if small is not flow:
        low = end if smaller == "renoise" else resize.pooled_time(flow.path, end, factor)
        high = low.new_tensor(up)
        again = (high - back).clamp(min=0) if larger == "renoise" else resize.repeated_time(flow.path, high, factor)
        plan += [(small, between(middle, low, high)), (flow, between(times, again, times[-1]))]
    total, done = sum(len(grid) - 1 for _, grid in plan), 0
    for stage, (own, grid) in enumerate(plan):
        if stage:
            before, t = plan[stage - 1][0], plan[stage - 1][1][-1]
            if (smaller, larger)[stage - 1] == "renoise":
                x = resize.renoised(own, before.ends(x, t).clean, grid[0], noise)
            else:
                x = resize.pooled(own, x, t, factor) if stage == 1 else resize.repeated(own, x, t, factor, noise)
        rows = torch.tensor(1.0 if own is flow else factor**-2)
        for step in solver(own, x, grid, noise=noise):
            x, done = step.x, done + 1
            yield Step(
                done, total, step.t, x, resize.resized(step.clean, *flow.shape[-2:]), {**step.info, "rows": rows}
            )
