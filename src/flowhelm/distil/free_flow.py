"""FreeFlow: a flow map from noise, distilled without data. Tong, Ma, Xie & Jaakkola 2025, arXiv:2511.19428.

With F(z, t) = u(z, 0 -> t) and f = z + t F, the teacher is asked where the student itself goes:

    predictor  |F(z, t) - stop(v_teacher(f, t) - t dF/dt)|^2 / (itself + floor)^power,          dF/dt with z fixed
    corrector  x' <- z + F(z, 1),  x'_s <- (1 - s) noise + s x',   <F(z, 1), stop(critic(x'_s, s) - v_teacher(x'_s, s))>
    critic     |critic(x'_s, s) - (x' - noise)|^2: the velocity of the student's own noised pictures

The corrector's gradient is that of the reverse divergence between the noised laws of student and teacher.

Needs   a teacher and a `NetMap` whose network is `Watched`: it brings the critic, which begins as the teacher. No data: give `empty`
Cost    predictor rows: 3 evaluations of the student, 1 of the teacher; corrector rows: 1, 1 and 2 of the critic. 1 backward
Paper   75 % of the rows for the predictor, power 1, a critic trained by an optimiser of its own, the corrector scaled to the size of the
        predictor's error. Deviations: one optimiser trains both networks (their losses share no weight); the corrector's difference is
        divided by its own size, as the predictor's is, in place of the running balance.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.student(teacher)
    student = dataclasses.replace(student, net=flowhelm.distil.Watched(student.net, copy.deepcopy(teacher.net)))
    loss = partial(flowhelm.distil.free_flow, teacher=teacher)
    data = flowhelm.learning.empty(4, torch.zeros(4, dtype=torch.int64))
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..entry import Fraction, NonNegative, guarded
from ..flow import Flow
from ..flow_map import NetMap, onwards
from ..grad import per_row
from ..learning.batches import Batch, adaptive, conditioned, instants, like
from ..path import mix
from ..shapes import PerSample, State, Time


class Watched(nn.Module):
    """A student's network, `net(x, s, t, *condition)`, and a critic of the same kind of states, `critic(x, t, *condition)`."""

    def __init__(self, net: nn.Module, critic: nn.Module):
        super().__init__()
        self.net, self.critic = net, critic

    def forward(self, x: State, s: Time, t: Time, *condition: Tensor) -> State:
        return self.net(x, s, t, *condition)


@guarded
def free_flow(
    student: NetMap,
    batch: Batch,
    generator: torch.Generator,
    *,
    teacher: Flow,
    predictor: Fraction = 0.75,
    density: Callable[[Tensor], Tensor] | None = None,
    noising: Callable[[Tensor], Tensor] | None = None,
    power: NonNegative = 1.0,
    floor: float = 1e-3,
    step: float | None = None,
) -> PerSample:
    """FreeFlow: a flow map from noise, without data. Tong, Ma, Xie & Jaakkola 2025, arXiv:2511.19428. The loss of every row `(b,)`.

    Args:
        predictor: share of the rows for it; the others are the corrector's.
        density: of the predictor's times; noising: of the corrector's. None for uniform; pure noise must be among the latter.
        power: of both weights: 0 for none, 1 for rows that pull alike.
        floor: added to the error in the weights.
        step: of a difference in place of the forward-mode derivative.

    Raises:
        ValueError: a network without a critic.
    """
    if not isinstance(student.net, Watched):
        raise ValueError("free_flow: expected a student whose network is `Watched`, got one without a critic")
    critic = student.net.critic
    student, teacher = conditioned(student, teacher, batch)
    z = like(student, batch, generator)
    t = instants(z, generator, density)
    first = torch.arange(len(z), device=z.device) < round(predictor * len(z))
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    end = torch.where(first, t, one)
    forward, change = onwards(student.average, z, t, step=step)
    with torch.no_grad():
        target = teacher.velocity(z + per_row(t, z) * forward, t) - per_row(t, z) * change
    found = student.average(z, zero, end)
    predicted = adaptive(found - target, power, floor)

    s, noise = (
        instants(z, generator, noising),
        torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype),
    )
    clean = (z + found).detach()
    x = mix(student.path, noise, clean, s)
    seen = critic(x, s, *student._told(len(x), x.device))
    with torch.no_grad():
        apart = seen - teacher.velocity(x, s)
    corrected = adaptive(found - (found - apart).detach(), power, floor) / 2
    watched = (seen - (clean - noise)).square().flatten(1).mean(1)
    return torch.where(first, predicted, corrected + watched)
