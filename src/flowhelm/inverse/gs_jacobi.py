"""gs_jacobi: segment after segment, the tokens of a segment at once. Liu & Qin 2025 (GS-Jacobi), arXiv:2505.12849.

    IGM, CRM of every block  ->  where it begins, in how many segments          `toughness.toughness`, `toughness.plan`
    for each block, from noise to picture:
        x <- the start
        for each segment, keys and values of those before it kept:
            until the segment changes no more, J times at most:   x <- clamp(z exp(log_scale(x)) + mean(x))     its tokens at once

Needs   a `Bijection`, pictures to measure the plan on (or the plan)
Cost    for each sweep, a forward of the segment's tokens that are not settled
Paper   strategies such as 6-8-32-10 by hand: tough block, its segments, sweeps of each, sweeps of the other blocks. Here the plan is
        chosen by shares of CRM, and a segment's sweeps end by the tolerance, as in `jacobi`. The keys that the paper keeps of a segment
        are those before its last update; here they are computed with the next segment, of the final tokens.

Example

    from flowhelm import Noise, inverse, load, run
    flow = load("fashion-tarflow")
    final = run(inverse.gs_jacobi(flow, flow.source(Noise(0, rows=1)), segments=7))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..bijection import Bijection, Update, arranged, scattered
from ..entry import Count, NonNegative, Positive, checked
from ..fixed_point import jacobi as sweeps_of
from ..step import Step
from ..toughness import Way, begun


@checked
@torch.no_grad()
def gs_jacobi(
    flow: Bijection,
    z: Tensor,
    *,
    tolerance: NonNegative = 1e-5,
    clamp: Positive = 100.0,
    segments: Count = 8,
    sweeps: Count | None = None,
    plan: Sequence[Way] = (),
) -> Iterator[Step]:
    """gs_jacobi: segment after segment, the tokens of a segment at once. Liu & Qin 2025, arXiv:2505.12849.

    Args:
        flow: bound to its conditions. z: noise, tokens `(b, n, d)`: `flow.source(noise)`.
        tolerance: root mean square change of a token below which it is settled; 0 is exact.
        clamp: greatest absolute value of a token, lest the first sweeps overflow.
        segments, sweeps: of each block, and of each segment at most, where there is no plan. As many segments as tokens: token by token.
        plan: a way for every block, in the order of `flow.blocks`: `toughness.plan(toughness.toughness(flow, pictures))`.

    Yields a step for each block; info["sweeps"], of all its segments together.
    """
    total = len(flow.blocks)
    for index, block in enumerate(reversed(flow.blocks), 1):
        way = plan[total - index] if plan else Way("noise", segments, sweeps)
        rows = arranged(block, z)
        x, made, update = begun(rows, way.start), 0, Update(flow, block, rows, clamp)
        edges = torch.linspace(0, rows.shape[1], min(way.segments, rows.shape[1]) + 1).round().int().tolist()
        for first, stop in pairwise(edges):
            for sweep in sweeps_of(update, x, tolerance=tolerance, first=first, stop=stop):
                x = sweep.x
                if sweep.sweeps == way.sweeps:
                    break
            made += sweep.sweeps
        z = scattered(block, x, len(z))
        time = torch.tensor(index / total, dtype=torch.float64)
        yield Step(index, total, time, z, flow.net.image(z), {"sweeps": torch.tensor(made)})
