"""Pi-Flow: a call gives a mixture, whose path needs no network and is learnt on it. Chen et al. 2025, arXiv:2510.14974, section 3.

For each segment [a, b] of `segments`, from the state where the last one ended (constant between segments):

    p     <- the student's mixture at the state,   q <- stop(p) with parts dropped
    repeat `looks` times (`policy.mixed`):
        y   <- rolled along q over a random interval, to the time s
        u   <- stop(v_teacher(y, s)),   v <- velocity of p at (y, s), its mean over the hop where there is one
        loss   |v - u|^2,               y <- y + hop u
    state <- rolled along q to b

The states are the student's own, as in DAgger: what it does wrong it is told where it does it.

Needs   a teacher, a `policy.PiFlow` that begins as the teacher's Euler step. No data: give `empty`
Cost    `segments` evaluations of the student, `segments` * `looks` of the teacher, 1 backward; rolling costs no network, but elementwise
        work of 2 `pieces` * parts
Paper   2 segments, 2 looks, 32 parts, parts dropped 0.05, 128 Euler substeps, states begun from data (ImageNet); hops of the teacher that
        shrink to none, states begun from noise (its variant without data, as here); AdamW 5e-5. Deviations: midpoint's rule, 32 evaluations
        in all; a deviation for each pixel, one for all parts; a batch shares its times; no temperature between segments.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.pi(teacher, parts=3)
    loss = partial(flowhelm.distil.pi_flow, teacher=teacher)
    data = flowhelm.learning.empty(2, torch.zeros(2, dtype=torch.int64))
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

import torch

from ..entry import Count, Fraction, guarded
from ..flow import Flow
from ..learning.batches import Batch, conditioned, like
from ..policy import PiFlow, mixed
from ..shapes import PerSample


@guarded
def pi_flow(
    student: PiFlow, batch: Batch, generator: torch.Generator, *, teacher: Flow, segments: Count = 2, looks: Count = 2,
    drop: Fraction = 0.05, anneal: Count = 1000,
) -> PerSample:  # fmt: skip
    """Pi-Flow: a mixture's path, learnt where it leads. Chen et al. 2025, arXiv:2510.14974, section 3. The loss of every row `(b,)`.

    Args:
        segments: calls of the student, each over an equal part of [0, 1]. looks: of the teacher in each.
        drop: share of the parts that the path is rolled without.
        anneal: steps of the training over which the teacher's hops shrink to none.
    """
    student, teacher = conditioned(student, teacher, batch)
    x, loss, length = like(student, batch, generator), torch.zeros(()), 1 / segments
    guided = max(0.0, 1 - batch.number / anneal)
    for segment in range(segments):
        t = torch.tensor(segment * length, dtype=torch.float64)
        p = student.mixture(x, t)
        q, end = p.thinned(drop, generator), t + length
        for y, s, u, hop in mixed(q, teacher, x, t, length - MARGIN, looks, guided, generator):
            loss = loss + length / looks * (p.average(y, s, s + hop) - u).square().flatten(1).mean(1)
        x = q.moved(x, t, end)
    return loss


MARGIN = 1e-3
"""Of time before a segment's end, where no teacher is asked: velocities have no limit at t = 1."""
