"""MDT-dist: marginal transport in one step, from the teacher's velocity. Zhou et al. 2025, arXiv:2509.04406.

With phi(x, t) = u(x, t -> 1), the velocity of any such map is phi - (1 - t) dphi/dt along the flow:

    matching      |phi(x_t, t) - stop(v_teacher + (1 - t) dphi)|^2,          x_t of data, dphi = (v_teacher . d/dx + d/dt) phi
    distillation  x' <- source' + phi(source', 0),   x'_t <- (1 - t) noise + t x'
                  |phi(source', 0) - stop(phi(source', 0) - D)|^2 / 2,       D = phi(x'_t, t) - (1 - t) dphi - v_teacher(x'_t, t)

D is the student's marginal velocity less the teacher's, the slope of the reverse divergence between both noised laws.

Needs   clean states, a teacher, a `NetMap` (of which only maps to t = 1 are trained)
Cost    5 evaluations of the student (7 with `step`), 2 of the teacher, 1 backward through 2 of them
Paper   weight 1, dphi by a difference of 0.01 and divided by (its norm + 0.1): `held`, which leaves little of it and is off
        here; guidance 40 and 100; times logit-normal(1, 1). Deviation: the derivative is forward-mode by default.
Limits  The distillation alone collapses onto modes. For two steps and more use `flow_map.jump`, not Euler steps of phi.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.student(teacher)
    data = flowhelm.train.shuffled(torch.zeros(8, 1, 32, 32), torch.zeros(8, dtype=torch.int64), batch=4)
    loss = partial(flowhelm.distil.mdt_dist, teacher=teacher)
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..entry import NonNegative, guarded
from ..flow import Flow
from ..flow_map import NetMap, along
from ..grad import per_row
from ..learning.batches import Batch, conditioned, instants, like
from ..path import mix
from ..shapes import PerSample, State, Time


@guarded
def mdt_dist(
    student: NetMap,
    batch: Batch,
    generator: torch.Generator,
    *,
    teacher: Flow,
    distillation: NonNegative = 1.0,
    density: Callable[[Tensor], Tensor] | None = None,
    held: float | None = None,
    step: float | None = None,
) -> PerSample:
    """MDT-dist: marginal transport in one step. Zhou et al. 2025, arXiv:2509.04406. The loss of every row `(b,)`.

    Args:
        distillation: weight of the second loss; 0 leaves velocity matching.
        density: of the times; None for uniform.
        held: added to the norm that dphi is divided by; None for dphi itself, the identity.
        step: of a difference in place of the forward-mode derivative.
    """
    student, teacher = conditioned(student, teacher, batch)
    source = like(student, batch, generator)

    def wanted(x: State, t: Time) -> Tensor:
        """What phi would be, were the teacher's velocity its own: v + (1 - t) dphi."""
        with torch.no_grad():
            v = teacher.velocity(x, t)
        change = along(student.average, x, t, torch.ones_like(t), v, step=step)[1]
        if held is not None:
            change = change / (per_row(change.flatten(1).norm(dim=1), x) + held)
        return v + per_row(1 - t, x) * change

    def final(x: State, t: Time) -> Tensor:
        return student.average(x, t, torch.ones_like(t))

    t = instants(source, generator, density)
    x = mix(student.path, source, batch.clean, t)
    loss = (final(x, t) - wanted(x, t)).square().flatten(1).mean(1)
    if not distillation:
        return loss
    start, noise = (
        torch.randn(source.shape, generator=generator, device=source.device, dtype=source.dtype) for _ in range(2)
    )
    phi = final(start, torch.zeros_like(t))
    t = instants(source, generator, density)
    x = mix(student.path, noise, (start + phi).detach(), t)
    with torch.no_grad():
        apart = final(x, t) - wanted(x, t)
    return loss + distillation * (phi - (phi - apart).detach()).square().flatten(1).mean(1) / 2
