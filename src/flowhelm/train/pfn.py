"""Prior-data fitted networks: Bayesian prediction in one pass. Müller et al. 2022, arXiv:2112.10510, algorithm 1.

    (x, y) ~ prior,   n ~ uniform on 0, ..., N - 1
    logits <- net(x, y[:n])        a token for each point; every token sees the n known points, an asked one itself, too
    loss   <- -log q(y[n:] | logits),   q of `bars`

The loss is the Kullback-Leibler divergence from the exact posterior predictive, up to a constant: it is Bayes' rule, learnt.

Needs   a prior that can be drawn from, such as `processes`
Cost    training: 1 evaluation, 1 backward per batch of data sets; then one evaluation for a data set
Paper   It draws n in proportion to 1 / (N - n); uniform is better here at every n after 320 steps. Width 512, 6 layers, up to
        10,000 bars, x and y embedded linearly; here 64, 3, 200, and x by a small network. x and y are taken as they are: bring
        them to the range of the prior.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..flow import NetFlow
from .bars import Bars
from .data import Batch, Data, seeded
from .gaussian_process import GaussianProcess


class Points(nn.Module):
    """A transformer without positions over points.

    Args:
        features: numbers of an x. outputs: numbers of a y. width, layers, heads: of the transformer.
    """

    def __init__(self, features: int = 1, outputs: int = 1, width: int = 64, layers: int = 3, heads: int = 4):
        super().__init__()
        self.x = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))
        self.y = nn.Linear(outputs, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def tokens(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the asked points `(b, N - n, width)`: x `(b, N, features)`, the first n of the y `(b, n, outputs)`, 0 <= n < N."""
        known, points = y.shape[1], x.shape[1]
        if known >= points:
            raise ValueError(f"PFN: expected fewer known y than points x, got {known} and {points}")
        token = self.x(x)
        token = torch.cat([token[:, :known] + self.y(y), token[:, known:]], 1)
        hidden = torch.ones(points, points, dtype=torch.bool, device=x.device)
        hidden[:, :known] = False
        hidden &= ~torch.eye(points, dtype=torch.bool, device=x.device)
        return self.body(token, mask=hidden)[:, known:]


class PFN(Points):
    """The network for one number: bars of each asked point.

    Args:
        bars: of y. The others: of `Points`.

    Call: `net(x, y)` with x `(b, N, features)` and the first n of the y, `(b, n)`, 0 <= n < N -> logits `(b, N - n, bars)` of
    the others. They do not depend on the order of the known points, nor on one another.
    """

    def __init__(self, bars: Bars, features: int = 1, width: int = 64, layers: int = 3, heads: int = 4):
        super().__init__(features, 1, width, layers, heads)
        self.bars = bars
        outputs = len(bars.get_buffer("borders")) - 1
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.tokens(x, y[..., None]))


def processes(
    length: tuple[float, float], noise: tuple[float, float], *, points: int = 24, batch: int = 64, seed: int = 0
) -> Data:
    """Data sets of Gaussian processes over x uniform in [0, 1]: y `(batch, points)`, with x `(batch, points, 1)` as the condition.

    Args:
        length, noise: of `GaussianProcess`, each drawn log-uniformly between two numbers > 0, which may be equal.
    """

    def data(index: int) -> Batch:
        generator = seeded(seed, index, purpose="processes")
        u = torch.rand(2, batch, generator=generator)
        drawn = [low * (high / low) ** part for (low, high), part in zip((length, noise), u, strict=True)]
        x = torch.rand(batch, points, 1, generator=generator)
        return Batch(GaussianProcess(*drawn).sample(x, generator), (x,))

    return data


def pfn_loss(flow: NetFlow, batch: Batch, generator: torch.Generator) -> Tensor:
    """-log q of every data set `(b,)`, mean over its asked points; for `train.fit`, with `NetFlow(PFN(...), (points,))`.

    Args:
        batch: y `(b, N)`, with x `(b, N, features)` as the only condition; how many are known is drawn for the batch.
    """
    (x,), y = batch.condition, batch.clean
    known = int(torch.randint(y.shape[1], (), generator=generator, device=generator.device))
    net: Any = flow.net
    return -net.bars.log_density(net(x, y[:, :known]), y[:, known:]).mean(1)
