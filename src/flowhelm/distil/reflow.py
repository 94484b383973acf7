"""Reflow: pairs of a teacher make paths straight. Liu, Gong & Liu 2023, arXiv:2209.03003; InstaFlow, arXiv:2309.06380.

    pairs      source ~ N(0, I),  clean <- ODE of the teacher from this source, with its guidance
    reflow     |v(x_t, t) - (clean - source)|^2,      x_t <- (1 - t) source + t clean,  the *same* source
    one step   |source + v(source, 0) - clean|^2;     k steps: t in {0, 1/k, ..., (k-1)/k} only

Needs   pairs, made once (`pairs`) and kept with their sources; a student that begins as the teacher
Cost    making: the teacher's steps per pair; then 1 evaluation, 1 backward
Paper   InstaFlow (arXiv:2309.06380): guidance 5 in the pairs, 25 steps of DPM-Solver; L2 and then LPIPS for one step. Deviation: L2 only.
Limits  Each round of reflow costs quality for straightness. Sources that are drawn anew undo it without a sign in the loss.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    data = flowhelm.distil.pairs(teacher, 8, batch=4, steps=2, seed=0)
    student = dataclasses.replace(teacher, net=copy.deepcopy(teacher.net).requires_grad_(True))
    final = next(flowhelm.train.fit(student, flowhelm.distil.reflow, data, steps=1))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..entry import Count, guarded
from ..flow import NetFlow
from ..learning.batches import Batch, Data, instants
from ..path import mix
from ..rng import Noise
from ..shapes import PerSample
from ..solve import integrate
from ..step import run
from ..transition import Transition, euler


@torch.no_grad()
def pairs(
    teacher: NetFlow, count: int, *, batch: int, steps: int = 25, transition: Transition = euler, seed: int = 0
) -> Data:
    """Sources and the teacher's pictures of them, `count` of them, in batches: the source of number i is that of stream i of the seed.

    What is bound to the teacher's rows goes with the pairs in turn, and its guidance is in the pictures.

    Raises:
        ValueError: fewer pairs than a batch has.
    """
    if not 1 <= batch <= count:
        raise ValueError(f"pairs: expected a batch of 1 to {count} pairs, got {batch}")
    told = [c[torch.arange(count) % len(c)] for c in teacher.condition]
    sources, ends = [], []
    for first in range(0, count, batch):
        rows = torch.arange(first, min(first + batch, count))
        bound = teacher.bind(*(c[rows] for c in told), guidance=teacher.guidance) if told else teacher
        x = bound.source(Noise(seed, rows.tolist())).to(next(teacher.net.parameters()).device)
        sources.append(x.cpu())
        ends.append(run(integrate(bound, x, bound.times(steps), transition=transition)).x.cpu())
    source, clean = torch.cat(sources), torch.cat(ends)

    def data(index: int) -> Batch:
        epoch, place = divmod(index, count // batch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        rows = order[place * batch : (place + 1) * batch]
        return Batch(clean[rows], tuple(c[rows] for c in told), source[rows])

    return data


@guarded
def reflow(
    student: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    density: Callable[[Tensor], Tensor] | None = None,
    points: Count | None = None,
) -> PerSample:
    """Reflow, and distillation into `points` steps. Liu, Gong & Liu 2023, arXiv:2209.03003. The loss of every row `(b,)`.

    Args:
        density: of the time; None for uniform.
        points: train at the times 0, 1/points, ... only: what a student of that many Euler steps uses; 1 for one step.

    Raises:
        ValueError: a batch without sources.
    """
    if batch.source is None:
        raise ValueError(
            "reflow: expected pairs, got clean states without the sources that they came from; make them by `pairs`"
        )
    source, clean = batch.source, batch.clean
    t = instants(source, generator, density)
    t = t if points is None else (t * points).floor() / points
    bound = student.bind(*batch.condition) if batch.condition else student
    return (bound.velocity(mix(student.path, source, clean, t), t) - (clean - source)).square().flatten(1).mean(1)
