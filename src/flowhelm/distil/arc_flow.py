"""ArcFlow: two calls whose paths are curved, learnt from the teacher along the student's own path. 2026, arXiv:2602.09014, section 3.

For each segment [a, b] of `segments`, from the state where the last one ended (constant between segments):

    p     <- the student's profile at the state,   q <- stop(p) with parts dropped
    repeat `looks` times (`policy.mixed`):
        y   <- rolled along q over a random interval, to the time s
        u   <- stop(v_teacher(y, s)),   mean <- average of p over [s, s + hop + window]
        loss   |mean - u|^2,            y <- y + hop u
    state <- rolled along q to b

Needs   a teacher, a `momentum.ArcFlow` that begins as the teacher's Euler step. No data: give `empty`
Cost    `segments` evaluations of the student, `segments` * `looks` of the teacher, 1 backward
Paper   2 segments, 4 looks, 16 parts, window 3/128, parts dropped 0.1, factor 30/2, hops of the teacher that shrink to none over
        2000 (FLUX) or 1000 steps; LoRA 256 and heads, under 5 % of the weights; AdamW 1e-4, EMA. Deviations: a batch shares its
        times; E(y) is a series at 0, not cut at 1e-4; the loss is a mean over numbers without the factor.

Example

    teacher = flowhelm.load("fashion").told(["coat"])
    student = flowhelm.priors.arc(teacher, parts=3)
    loss = partial(flowhelm.distil.arc_flow, teacher=teacher)
    data = flowhelm.learning.empty(2, torch.zeros(2, dtype=torch.int64))
    final = next(flowhelm.train.fit(student, loss, data, steps=1))
"""

from __future__ import annotations

import torch

from ..entry import Count, Fraction, guarded
from ..flow import Flow
from ..learning.batches import Batch, conditioned, like
from ..momentum import ArcFlow
from ..policy import mixed
from ..shapes import PerSample


@guarded
def arc_flow(
    student: ArcFlow, batch: Batch, generator: torch.Generator, *, teacher: Flow, segments: Count = 2, looks: Count = 4,
    window: Fraction = 3 / 128, drop: Fraction = 0.1, anneal: Count = 1000,
) -> PerSample:  # fmt: skip
    """ArcFlow: two calls whose paths are curved. 2026, arXiv:2602.09014, section 3. The loss of every row `(b,)`.

    Args:
        segments: calls of the student, each over an equal part of [0, 1]. looks: of the teacher in each.
        window: in time, over which the profile is averaged at least; below the length of a segment.
        drop: share of the parts that the path is rolled without.
        anneal: steps of the training over which the teacher's hops shrink to none.
    """
    length = 1 / segments
    if not window < length:
        raise ValueError(f"arc_flow: expected a window below the length of a segment, {length:g}, got {window}")
    student, teacher = conditioned(student, teacher, batch)
    x, loss = like(student, batch, generator), torch.zeros(())
    guided = max(0.0, 1 - batch.number / anneal)
    for segment in range(segments):
        t = torch.tensor(segment * length, dtype=torch.float64)
        p = student.profile(x, t)
        q, end = p.thinned(drop, generator), t + length
        for _, s, u, hop in mixed(q, teacher, x, t, length - window, looks, guided, generator):
            loss = loss + length / looks * (p.average(s, s + hop + window) - u).square().flatten(1).mean(1)
        x = q.moved(x, t, end)
    return loss
