"""jacobi: all tokens at once, again and again. Song et al. 2021, arXiv:2002.03629; of TarFlow: Liu & Qin 2025, arXiv:2505.12849.

    for each block, from noise to picture:
        x <- z
        until x changes no more, n times at most:   x <- clamp(z exp(log_scale(x)) + mean(x))         all tokens at once

Needs   a `Bijection`
Cost    a forward of the block for each sweep: n times the arithmetic of `sequential` at most, in few large pieces
Paper   tolerance 1e-6 of |change| / (rows x numbers of a token), clamp 3, no keys kept. Here a token is settled once it and all before it
        change by no more than the tolerance (root mean square of a token, worst row); settled tokens are not computed again: their keys
        and values are kept. So a sweep gets cheaper as the front moves on. `keep=False` is the plain one, whose every sweep is whole.

Example

    from flowhelm import Noise, inverse, load, run
    flow = load("fashion-tarflow")
    final = run(inverse.jacobi(flow, flow.source(Noise(0, rows=1)), tolerance=1e-4))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..bijection import Bijection, Update, arranged, scattered
from ..entry import Count, NonNegative, Positive, checked
from ..fixed_point import jacobi as sweeps_of
from ..step import Step
from ..toughness import Way, begun


@checked
@torch.no_grad()
def jacobi(
    flow: Bijection,
    z: Tensor,
    *,
    tolerance: NonNegative = 1e-5,
    clamp: Positive = 100.0,
    sweeps: Count | None = None,
    keep: bool = True,
    plan: Sequence[Way] = (),
) -> Iterator[Step]:
    """jacobi: all tokens at once, again and again. Liu & Qin 2025, arXiv:2505.12849.

    Args:
        flow: bound to its conditions. z: noise, tokens `(b, n, d)`: `flow.source(noise)`.
        tolerance: root mean square change of a token below which it is settled; 0 is exact.
        clamp: greatest absolute value of a token, lest the first sweeps overflow.
        sweeps: of a block, at most. keep: settled tokens are not computed again.
        plan: where each block begins (`toughness.plan`); none: from the noise.

    Yields a step for each block; info["sweeps"].
    """
    total = len(flow.blocks)
    for index, block in enumerate(reversed(flow.blocks), 1):
        rows = arranged(block, z)
        x, made = begun(rows, plan[total - index].start if plan else "noise"), 0
        for sweep in sweeps_of(Update(flow, block, rows, clamp, keep=keep), x, tolerance=tolerance):
            x, made = sweep.x, sweep.sweeps
            if made == sweeps:
                break
        z = scattered(block, x, len(z))
        time = torch.tensor(index / total, dtype=torch.float64)
        yield Step(index, total, time, z, flow.net.image(z), {"sweeps": torch.tensor(made)})
