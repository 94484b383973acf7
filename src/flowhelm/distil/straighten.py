"""BOSS straightening: each chord of a chosen grid becomes one exact Euler step. Nguyen, Nguyen & Nguyen 2024, arXiv:2312.16414, section 4.

    x_k   the teacher's states at the grid's times t_0 < ... < t_K, by `fine` Euler steps to each
    loss  |v(x_k, t_k) - (x_{k+1} - x_k) / (t_{k+1} - t_k)|^2,     k drawn for the batch

Needs   a teacher, a grid (`grids.boss`, or any), a student that begins as the teacher. No data: give `empty`
Cost    up to K `fine` evaluations of the teacher, 1 of the student, 1 backward
Paper   fine grid of 100 steps, Adam 2e-4, LoRA of rank 4. Deviation: trajectories are made as they are used; none is seen twice.
Limits  Only the grid's times are trained: the student is for this grid with Euler steps, and is to be saved with it.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = dataclasses.replace(teacher, net=copy.deepcopy(teacher.net).requires_grad_(True))
    loss = partial(flowhelm.distil.straighten, teacher=teacher, times=teacher.times(2), fine=2)
    data = flowhelm.learning.empty(4, torch.zeros(4, dtype=torch.int64))
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..entry import Count, guarded
from ..flow import Flow, NetFlow
from ..learning.batches import Batch, conditioned, like
from ..shapes import PerSample, Times
from ..solve import rollout


@guarded
def straighten(
    student: NetFlow, batch: Batch, generator: torch.Generator, *, teacher: Flow, times: Times, fine: Count = 10
) -> PerSample:
    """BOSS straightening. Nguyen, Nguyen & Nguyen 2024, arXiv:2312.16414, section 4. The loss of every row `(b,)`.

    Args:
        times: the grid, `(K + 1,)` float64. fine: Euler steps of the teacher for each of its steps.
    """
    k = int(torch.randint(len(times) - 1, (), generator=generator, device=generator.device))
    student, teacher = conditioned(student, teacher, batch)
    x = like(student, batch, generator)
    with torch.no_grad():
        if k:
            x = rollout(teacher, x, _refined(times[: k + 1], fine))
        end = rollout(teacher, x, _refined(times[k : k + 2], fine))
    h = (times[k + 1] - times[k]).to(x)
    return (student.velocity(x, times[k]) - (end - x) / h).square().flatten(1).mean(1)


def _refined(times: Times, fine: int) -> Tensor:
    """Every step of a grid cut into so many equal ones."""
    parts = torch.arange(fine, dtype=torch.float64) / fine
    return torch.cat([(times[:-1, None] + parts * times.diff()[:, None]).flatten(), times[-1:]])
