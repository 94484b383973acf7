"""A method of my own."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from flowhelm import Flow, Measurement, Noise, Step
from flowhelm.entry import Positive


@torch.no_grad()
def fitted(
    flow: Flow, y: Measurement, x: Tensor, times: Tensor, *, pull: Positive = 1.0, noise: Noise | None = None
) -> Iterator[Step]:
    """Fitted: the prior's estimate, moved to the measurement; then the path is taken up again with fresh noise.

    Needs   a linear measurement on a pixel prior
    Cost    1 evaluation per step, forward only
    Paper   none; it is an example

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        pull: how much the measurement counts against the estimate.
        noise: one stream per row; without, the old noise is kept.
    """
    if not flow.pixels:
        raise ValueError("fitted: expected a prior over pixels, got one with a decoder")
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        spread = (1 - float(s)) ** 2 / ((1 - float(s)) ** 2 + float(s) ** 2)
        clean = y.prox(ends.clean, pull * spread)
        c = flow.path(t)
        x = float(c.alpha) * clean + float(c.sigma) * (ends.source if noise is None else noise(x))
        yield Step(i, len(times) - 1, t, x, clean)
