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

from collections.abc import Callable, Sequence
from dataclasses import replace

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
    parts = []
    for first in range(0, count, batch):
        bound, x = begun(teacher, range(first, min(first + batch, count)), seed)
        end = run(integrate(bound, x, bound.times(steps), transition=transition)).x
        parts.append((x.cpu(), end.cpu(), *bound.condition))
    source, clean, *told = (torch.cat(part) for part in zip(*parts, strict=True))
    return paired(source, clean, *told, batch=batch)


def begun(teacher: NetFlow, rows: Sequence[int], seed: int) -> tuple[NetFlow, Tensor]:
    """The teacher, told what pairs of these numbers show, and their sources, where its weights are."""
    index = torch.tensor(rows)
    told = [c[(index % len(c)).to(c.device)] for c in teacher.condition]
    bound = replace(teacher, condition=tuple(told)) if told else teacher
    return bound, bound.source(Noise(seed, list(rows))).to(next(teacher.net.parameters()).device)


def paired(source: Tensor, clean: Tensor, *told: Tensor, batch: int) -> Data:
    """Sources `(n, *shape)` and what became of them, and what each was told `(n, ...)`: each once an epoch, in another order.

    Raises:
        ValueError: fewer pairs than a batch has.
    """
    count = len(source)
    if not 1 <= batch <= count:
        raise ValueError(f"pairs: expected a batch of 1 to {count} pairs, got {batch}")

    def data(index: int) -> Batch:
        epoch, place = divmod(index, count // batch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        rows = order[place * batch : (place + 1) * batch]
        return Batch(clean[rows], tuple(c[rows] for c in told), source[rows])

    return data


@guarded
def reflow(
    student: NetFlow, batch: Batch, generator: torch.Generator, *, density: Callable[[Tensor], Tensor] | None = None,
    points: Count | None = None,
) -> PerSample:  # fmt: skip
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
