"""FlowTurbo: a small network learns how the velocity changes. Zhao, Shi, Yu, Zhou & Lu 2024, arXiv:2409.18128.

    v    <- v_teacher(x, t),     x' <- x + d v,     x of data at t,  d ~ U(0, reach]
    loss    |v_teacher(x', t + d) - (refiner(x', v, t + d) + v)|^2

Needs   clean states, a teacher, a student over state and velocity together (`priors.refiner`), whose velocity is
        `solve.refined`; `sample.flow_turbo` draws with it
Cost    2 evaluations of the teacher, 1 of the refiner, 1 backward
Paper   reach 0.12; the refiner is one block, 4 % of the network, and is 0 at first: the last velocity is used again.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.refiner(teacher)
    loss = partial(flowhelm.distil.flow_turbo, teacher=teacher)
    data = flowhelm.train.shuffled(torch.zeros(8, 1, 32, 32), torch.zeros(8, dtype=torch.int64), batch=4)
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

import torch

from ..entry import Fraction, guarded
from ..flow import Flow, NetFlow
from ..grad import per_row
from ..learning.batches import Batch, conditioned, instants, like
from ..path import mix
from ..shapes import PerSample
from ..solve import refined


@guarded
def flow_turbo(
    student: NetFlow, batch: Batch, generator: torch.Generator, *, teacher: Flow, reach: Fraction = 0.12
) -> PerSample:
    """FlowTurbo: a refiner of velocities. Zhao, Shi, Yu, Zhou & Lu 2024, arXiv:2409.18128. The loss of every row `(b,)`.

    Args:
        reach: longest step in time between the two velocities.
    """
    student, teacher = conditioned(student, teacher, batch)
    source = like(student, batch, generator)[:, : teacher.shape[0]]  # a refiner has twice the channels
    t = instants(source, generator)
    d = torch.minimum(reach * instants(source, generator), 1 - t)
    x = mix(teacher.path, source, batch.clean, t)
    with torch.no_grad():
        v = teacher.velocity(x, t)
        x = x + per_row(d, x) * v
        wanted = teacher.velocity(x, t + d)
    return (refined(student, x, v, t + d) - wanted).square().flatten(1).mean(1)
