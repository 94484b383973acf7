"""Prior-data fitted networks for vectors: a flow in the place of the bars. flowhelm's own, after Müller et al. 2022, arXiv:2112.10510.

    (x, y) ~ prior,   n ~ uniform on 0, ..., N - 1
    h    <- tokens of the asked points, as in `pfn`
    loss <- flow matching of y[n:] from normal noise, with a small network velocity(y_t, t, h)

A histogram of d numbers has bars^d bars; a flow has any law, and its samples keep what the numbers of one y have to do with each other.

Needs   a prior that can be drawn from
Cost    training: 1 evaluation, 1 backward; then one evaluation for a data set, and the small network for each step of the solver
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..flow import NetFlow
from .data import Batch
from .flow_matching import flow_matching
from .pfn import Points


class Head(nn.Module):
    """Velocity of y `(rows, outputs)` at times `(rows,)`, given a token of each `(rows, width)`."""

    def __init__(self, outputs: int, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(outputs + 9 + width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU(),
            nn.Linear(2 * width, outputs),
        )  # fmt: skip

    def forward(self, y: Tensor, t: Tensor, token: Tensor) -> Tensor:
        t = t.to(y).expand(len(y))[:, None]
        angles = t * torch.pi * 2.0 ** torch.arange(4, device=y.device)
        return self.body(torch.cat([y, t, angles.sin(), angles.cos(), token], 1))


class VectorPFN(Points):
    """The network.

    Args:
        outputs: numbers of a y. The others: of `pfn.Points`.

    Call: `net(x, y)` with x `(b, N, features)` and the first n of the y, `(b, n, outputs)` -> the law of the others as a flow
    over rows `(b (N - n), outputs)`, data set by data set: any solver draws from it.
    """

    def __init__(self, outputs: int, features: int = 1, width: int = 64, layers: int = 3, heads: int = 4):
        super().__init__(features, outputs, width, layers, heads)
        self.outputs, self.head = outputs, Head(outputs, width)

    def forward(self, x: Tensor, y: Tensor) -> NetFlow:
        return NetFlow(self.head, (self.outputs,)).bind(self.tokens(x, y).flatten(0, 1))


def vector_pfn_loss(flow: NetFlow, batch: Batch, generator: torch.Generator) -> Tensor:
    """The loss of every data set `(b,)`, for `train.fit`, with `NetFlow(VectorPFN(...), (N, outputs))`.

    Args:
        batch: y `(b, N, outputs)`, with x `(b, N, features)` as the only condition; how many are known is drawn for the batch.
    """
    (x,), y = batch.condition, batch.clean
    known = int(torch.randint(y.shape[1], (), generator=generator, device=generator.device))
    law, asked = flow.net(x, y[:, :known]), y[:, known:].flatten(0, 1)
    return flow_matching(law, Batch(asked, law.condition), generator, drop=0.0).view(len(y), -1).mean(1)
