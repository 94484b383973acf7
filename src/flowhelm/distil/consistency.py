"""Consistency distillation: two points of a path must have one end. Song, Dhariwal, Chen & Sutskever 2023, arXiv:2303.01469, alg. 2.

    x_s  <- (1 - s) source + s clean,    x_t <- x_s + (t - s) v_teacher(x_s, s),    t = s + step
    loss    |map(x_s, s, 1) - stop(map(x_t, t, 1))| / (t - s)

Needs   clean states, a teacher, a `NetMap` (of which only maps to t = 1 are trained)
Cost    2 evaluations of the student, 1 of the teacher, 1 backward
Paper   its target is a moving average of the network and its distance LPIPS; here the network itself, without gradient, and the
        root of the mean square, as Song & Dhariwal 2023 (arXiv:2310.14189) found better. The baseline of this folder.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.student(teacher)
    data = flowhelm.train.shuffled(torch.zeros(8, 1, 32, 32), torch.zeros(8, dtype=torch.int64), batch=4)
    loss = partial(flowhelm.distil.consistency, teacher=teacher)
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..entry import Positive, guarded
from ..flow import Flow
from ..flow_map import NetMap
from ..grad import per_row
from ..learning.batches import Batch, conditioned, instants, like
from ..path import mix
from ..shapes import PerSample


@guarded
def consistency(
    student: NetMap,
    batch: Batch,
    generator: torch.Generator,
    *,
    teacher: Flow,
    step: Positive = 0.02,
    density: Callable[[Tensor], Tensor] | None = None,
    floor: Positive = 1e-4,
) -> PerSample:
    """Consistency distillation. Song, Dhariwal, Chen & Sutskever 2023, arXiv:2303.01469, alg. 2. The loss of every row `(b,)`.

    Args:
        step: of the teacher, in time. density: of the earlier time; None for uniform.
        floor: added to the square below the root, where the root is not smooth.
    """
    student, teacher = conditioned(student, teacher, batch)
    source = like(student, batch, generator)
    s = instants(source, generator, density) * (1 - step)
    t, one = s + step, torch.ones_like(s)
    x = mix(student.path, source, batch.clean, s)
    with torch.no_grad():
        target = student.map(x + step * teacher.velocity(x, s), t, one)
    square = ((student.map(x, s, one) - target) / per_row(t - s, x)).square().flatten(1).mean(1)
    return (square + floor).sqrt() - floor**0.5
