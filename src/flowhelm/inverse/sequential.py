"""sequential: token by token, with keys and values kept. Zhai et al. 2024 (TarFlow), arXiv:2412.06329.

    for each block, from noise to picture:
        for i = 1 ... n:   x_i <- z_i exp(log_scale_i(x_<i)) + mean_i(x_<i)

Needs   a `Bijection`
Cost    n evaluations of one token for each block: the arithmetic of one forward, in n small pieces
Paper   as printed; keys and values are kept, as its authors' code does

Example

    from flowhelm import Noise, inverse, load, run
    flow = load("fashion-tarflow")
    final = run(inverse.sequential(flow, flow.source(Noise(0, rows=1))))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..bijection import Bijection, arranged, scattered
from ..step import Step


@torch.no_grad()
def sequential(flow: Bijection, z: Tensor) -> Iterator[Step]:
    """sequential: token by token, with keys and values kept. arXiv:2412.06329.

    Args:
        flow: bound to its conditions. z: noise, tokens `(b, n, d)`: `flow.source(noise)`.

    Yields a step for each block; `clean` is the picture as far as it is, info["sweeps"] the evaluations of a block.
    """
    total = len(flow.blocks)
    for index, block in enumerate(reversed(flow.blocks), 1):
        rows = arranged(block, z)
        x, keys = torch.empty_like(rows), flow.keys(block, rows)
        for i in range(rows.shape[1]):
            mean, log_scale = flow.affine(block, x, i, i + 1, keys)
            x[:, i : i + 1] = rows[:, i : i + 1] * log_scale.exp() + mean
        z = scattered(block, x, len(z))
        time = torch.tensor(index / total, dtype=torch.float64)
        yield Step(index, total, time, z, flow.net.image(z), {"sweeps": torch.tensor(rows.shape[1])})
