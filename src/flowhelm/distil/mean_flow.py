"""MeanFlow: a network of two times learns average velocities from their identity. Geng, Deng, Bai, Kolter & He 2025, arXiv:2505.13447.

    x_s  <- (1 - s) source + s clean
    v    <- clean - source, or the teacher's velocity at x_s
    u*   <- stop(v + (t - s) (v . d/dx + d/ds) u(x_s, s -> t))
    loss    |u(x_s, s -> t) - u*|^2 / (itself + floor)^power

Needs   clean states, a `NetMap`; a teacher, or none: then it is trained from nothing
Cost    2 evaluations (3 with `step`), 1 backward; with a teacher its evaluation, too
Paper   (s, t) from the same density, logit-normal(-.4, 1) of the paper's time, sorted; 75 % of the pairs have s = t, plain flow
        matching; power 1, floor 0.01. Deviations: guidance is the teacher's own, where there is one, instead of a mixture of the
        network's velocities; the time is this library's, so the later time is the cleaner one.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.student(teacher)
    data = flowhelm.train.shuffled(torch.zeros(8, 1, 32, 32), torch.zeros(8, dtype=torch.int64), batch=4)
    loss = partial(flowhelm.distil.mean_flow, teacher=teacher)
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..entry import Fraction, NonNegative, guarded
from ..flow import Flow
from ..flow_map import NetMap, along
from ..grad import per_row
from ..learning.batches import Batch, adaptive, conditioned, instants, like
from ..path import mix
from ..shapes import PerSample


@guarded
def mean_flow(
    student: NetMap,
    batch: Batch,
    generator: torch.Generator,
    *,
    teacher: Flow | None = None,
    same: Fraction = 0.75,
    density: Callable[[Tensor], Tensor] | None = None,
    power: NonNegative = 1.0,
    floor: float = 1e-2,
    step: float | None = None,
) -> PerSample:
    """MeanFlow: average velocities from their identity. Geng, Deng, Bai, Kolter & He 2025, arXiv:2505.13447. The loss of every row `(b,)`.

    Args:
        teacher: whose velocity is averaged; None for that of the data.
        same: share of the rows with s = t.
        density: of both times; see `train.times`. None for uniform.
        power: of the weight: 0 for the square error, 1 for rows that pull alike.
        floor: added to the error in the weight.
        step: of a difference in place of the forward-mode derivative.
    """
    student, bound = conditioned(student, student if teacher is None else teacher, batch)
    source = like(student, batch, generator)
    one, two = instants(source, generator, density), instants(source, generator, density)
    s, t = torch.minimum(one, two), torch.maximum(one, two)
    t = torch.where(instants(source, generator) < same, s, t)
    x = mix(student.path, source, batch.clean, s)
    with torch.no_grad():
        v = batch.clean - source if teacher is None else bound.velocity(x, s)
    _, change = along(student.average, x, s, t, v, step=step)
    return adaptive(student.average(x, s, t) - (v + per_row(t - s, x) * change), power, floor)
