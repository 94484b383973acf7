"""RK45: Dormand and Prince's pair of orders 5 and 4 with steps of its own length. Dormand & Prince 1980, no arXiv number.

    x5, err = seven stages from (x, t) with step h
    accept  where rms(err / (absolute + relative max(|x|, |x5|))) <= 1;   h <- h min(10, max(0.2, 0.9 err^(-1/5)))

Needs   any prior with a velocity at t = 1
Cost    6 evaluations per attempted step, 2 at the start; every node of the grid is a stop, so give few. One wait for the device per step
Paper   As scipy and torchdiffeq have it, with Hairer's first step; tolerances of SiT. Deviation: every row has steps of its own, so that a
        picture does not depend on its neighbours in the batch; stops are reached, not interpolated.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.rk45(flow, flow.source(noise), flow.times(1), relative=0.05))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import NonNegative, Positive, checked
from ..flow import Flow
from ..grad import per_row
from ..path import ends_from_velocity
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@checked
@torch.no_grad()
def rk45(
    flow: Flow,
    x: State,
    times: Times,
    *,
    relative: NonNegative = 1e-3,
    absolute: Positive = 1e-6,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """RK45: Dormand and Prince's pair with steps of its own length. Dormand & Prince 1980, no arXiv number.

    Args:
        x: state `(b, *shape)` at times[0]; times: stops, increasing, float64 on the CPU.
        relative, absolute: error that a step may make, beside the state and alone, per row.

    Yields one step per stop; info["evaluations"] `(b,)`, of each row so far.

    Raises:
        ValueError: a step so short that time stands still.
    """

    def norm(error: Tensor, *states: Tensor) -> Tensor:
        size = torch.stack([s.abs() for s in states]).amax(0)
        return (error / (absolute + relative * size)).square().flatten(1).mean(1).sqrt().double().cpu()

    rows, total = len(x), len(times) - 1
    t = times[0].expand(rows).clone()
    slope = flow.velocity(x, times[0])
    size, speed = norm(x, x), norm(slope, x)
    h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=float(times[-1] - times[0]))
    bend = norm(flow.velocity(x + per_row(h.to(x), x) * slope, t + h) - slope, x) / h
    steepest = torch.maximum(speed, bend)
    h = torch.minimum(100 * h, torch.where(steepest <= 1e-15, (h * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** 0.2))
    spent = torch.full((rows,), 2)
    for i, (_, stop) in enumerate(pairwise(times), 1):
        while len(on := (t < stop).nonzero()[:, 0]):
            here, part = on.to(x.device), flow.rows(on, rows)
            z, s, step = x[here], t[on], torch.minimum(h[on], stop - t[on])
            if bool((s + step <= s).any()):
                raise ValueError(
                    f"rk45: the steps at t = {float(s.min()):g} became 0; allow a larger error, or stop earlier"
                )
            k, length = [slope[here]], per_row(step.to(z), z)
            for node, stage in zip(NODES, STAGES, strict=True):
                ahead = z + length * sum(a * each for a, each in zip(stage, k, strict=True) if a)
                k.append(part.velocity(ahead, torch.where(step >= stop - s, s + node * (stop - s), s + node * step)))
            wrong = norm(length * sum(e * each for e, each in zip(ERROR, k, strict=True) if e), z, ahead)
            good = wrong <= 1
            moved = on[good]
            x, slope = (
                x.index_copy(0, moved.to(x.device), ahead[good.to(x.device)]),
                slope.index_copy(0, moved.to(x.device), k[-1][good.to(x.device)]),
            )
            t[moved] = torch.where(step >= stop - s, stop, s + step)[good]
            factor = (0.9 * wrong.clamp(min=1e-10) ** -0.2).clamp(0.2, 10)
            # a step that was cut short by a stop says nothing against the longer one
            h[on] = torch.where(good & (step < h[on]), torch.maximum(h[on], step * factor), step * factor)
            spent[on] += 6
        clean = ends_from_velocity(flow.path, slope, x, stop).clean
        yield Step(i, total, stop, x, clean, {"evaluations": spent.clone()})
