"""How rare is a sample, and can a noisy state tell? Um, Lee & Ye 2024, arXiv:2301.12334, section 3.

    score <- mean over draws of distance(clean, E[clean | alpha_l clean + sigma_l noise])    at the time l = `level`
    label <- which of `classes` equal parts of all scores it belongs to, the last one the rarest
    loss  <- -log p(label | x_t),    t ~ density, x_t = alpha_t clean + sigma_t noise

What the prior knows well it reconstructs well from a little of it; unusual features are lost. The classifier is for `guide.rare`.

Needs   a flow and clean states; a classifier `net(x, t) -> (b, classes)`, as the network of a NetFlow, for `train.fit`
Cost    `draws` evaluations per state, once; then 1 evaluation of the classifier and its gradient per update
Paper   LPIPS, 5 draws at level 60 of 100 of a VP schedule (0.14 on the linear path), 100 classes; 60 000 updates of 256 rows at
        rate 3e-4 with weight decay 0.05. The default distance is the mean square.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..flow import Flow, NetFlow
from ..path import mix
from ..rng import Noise
from .data import Batch
from .flow_matching import normal
from .times import Density, draw, uniform


def _squares(clean: Tensor, again: Tensor) -> Tensor:
    return (clean - again).square().flatten(1).mean(1)


@torch.no_grad()
def rarity(
    flow: Flow,
    clean: Tensor,
    noise: Noise,
    *,
    level: float = 0.14,
    draws: int = 5,
    distance: Callable[[Tensor, Tensor], Tensor] = _squares,
) -> Tensor:
    """The score of clean states `(b, *shape)`: `(b,)`, larger is rarer.

    Args:
        level: the time, between 0 and 1; scores of different levels do not compare. draws: of the noise.
        distance: `(clean, again) -> (b,)` between states.
    """
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"rarity: expected 0 < level < 1 and at least 1 draw, got {level} and {draws}")
    t = torch.tensor(level, dtype=torch.float64)
    return (
        sum(
            (distance(clean, flow.ends(mix(flow.path, noise(clean), clean, t), t).clean) for _ in range(draws)),
            clean.new_zeros(len(clean)),
        )
        / draws
    )


def quantiles(scores: Tensor, classes: int = 100) -> Tensor:
    """Labels `(n,)` from 0 to classes - 1, the last one for the largest scores; each for n / classes of them, as near as can be."""
    if not 1 <= classes <= len(scores):
        raise ValueError(f"quantiles: expected 1 to {len(scores)} classes for as many scores, got {classes}")
    rank = scores.argsort(stable=True).argsort()
    return rank * classes // len(scores)


def rarity_loss(flow: NetFlow, batch: Batch, generator: torch.Generator, *, density: Density = uniform) -> Tensor:
    """Cross-entropy of every row `(b,)`, for `train.fit`.

    Args:
        flow: over the classifier: `NetFlow(net, shape)`, whose path is that of the flow to be guided.
        batch: clean states, with their labels `(b,)` as the only condition.
        density: of the time; see `train.times`.
    """
    (label,) = batch.condition
    t = draw(density, len(batch.clean), generator).to(batch.clean)
    x = mix(flow.path, normal(batch.clean, generator), batch.clean, t)
    return fn.cross_entropy(flow.net(x, t), label, reduction="none")
