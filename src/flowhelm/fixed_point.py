"""Fixed points of triangular maps, all entries at once: parallel in time, and autoregressive models.

Entry k of `update(x)` depends on entries before k alone, so that the fixed point is what going through them one after another gives. A
sweep updates many; after each at least one more entry is exact, and usually many are exact enough (Song et al. 2021, arXiv:2002.03629).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Sweep(NamedTuple):
    """x `(b, n, ...)` after so many sweeps; its first `settled` entries are final."""

    x: Tensor
    settled: int
    sweeps: int


def jacobi(
    update: Callable[[Tensor, int, int], Tensor],
    x: Tensor,
    *,
    tolerance: float = 0.0,
    window: int | None = None,
    first: int = 0,
    stop: int | None = None,
) -> Iterator[Sweep]:
    """Sweeps until every entry is settled: at most as many as there are entries, one wait for the device each.

    Args:
        update: (x, first, stop) -> the new entries first ... stop - 1, `(b, stop - first, ...)`.
        x: the guess `(b, n, ...)`.
        tolerance: root mean square change of an entry, in every row, below which it is settled if all before it are. 0 is exact.
        window: how many entries a sweep updates at most; None for all. What has just come into it begins at the last one's value.
        first, stop: only entries first ... stop - 1 are looked for: those before are settled, those after stay as they are.
    """
    n, settled, sweeps, reached = x.shape[1] if stop is None else stop, first, 0, 0
    while settled < n:
        end = min(n, settled + (window or n))
        if 0 < reached < end:
            x = torch.cat(
                [x[:, :reached], x[:, reached - 1 : reached].expand(-1, n - reached, *x.shape[2:]), x[:, n:]], 1
            )
        new = update(x, settled, end)
        change = (new - x[:, settled:end]).square().flatten(2).mean(2).sqrt().amax(0)
        x = torch.cat([x[:, :settled], new, x[:, end:]], 1)
        still = (change <= tolerance).long()
        still[0] = 1  # all that it depends on was settled
        settled, sweeps, reached = settled + int(still.cumprod(0).sum()), sweeps + 1, end
        yield Sweep(x, settled, sweeps)
