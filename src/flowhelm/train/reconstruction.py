"""A flow in the latents of a reconstruction model. Wizadwongsa et al. 2025, arXiv:2501.00651.

    codec:  occupied, on views and points;  latents <- cached(codec, views), standardized by plane and channel
    flow:   |velocity - (clean - source)|^2 weighted by place, w = (1 - share) + share A / mean A,  A = variance over the set
            + price h(t) |look(x_t + (1 - t) velocity) - look(clean)|^2,   h = 0 up to `late`, then a ramp to 1

Needs   a codec with `at(latents, points)` (`priors.triplane`); for the second part `look`, its decoder and renderer
Cost    1 evaluation, 1 backward; with `look` 2 renderings of the rows later than `late`, 1 backward through one
Paper   Abstract and summary only were to be had: the formulas are derived. Its look is perceptual (LPIPS); here any function.
        Weights by place do not move the optimum of the velocity, they say where a small network should err least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..entry import Fraction, NonNegative, guarded
from ..flow import NetFlow
from ..path import at, ends_from_velocity, mix
from .data import Batch
from .flow_matching import dropped, normal
from .times import Density, draw, uniform


def occupied(codec: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the occupancy of every row `(b,)`, for `train.fit` of `Alone(codec)`.

    Args:
        batch: views `(b, ...)`, with points `(b, m, 3)` and their occupancies `(b, m)` in [0, 1].
    """
    points, true = batch.condition
    net = codec.net
    return fn.binary_cross_entropy_with_logits(net.at(net.encode(batch.clean), points), true, reduction="none").mean(1)


@guarded
def by_place(latents: Tensor, *, planes: int = 3, share: Fraction = 0.5) -> Tensor:
    """Weights `(planes c, h, w)` of mean 1: how much latents `(n, planes c, h, w)` differ there, averaged over the channels of a plane."""
    differ = (
        latents.var(0).unflatten(0, (planes, -1)).mean(1, keepdim=True).expand(-1, latents.shape[1] // planes, -1, -1)
    )
    return ((1 - share) + share * differ / differ.mean()).flatten(0, 1)


@guarded
def reconstruction(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    density: Density = uniform,
    weight: Tensor | None = None,
    look: Callable[[Tensor], Tensor] | None = None,
    price: NonNegative = 1.0,
    late: Fraction = 0.6,
    drop: Fraction = 0.1,
) -> Tensor:
    """The loss of every row `(b,)`, for `train.fit`. Without weights and look it is `flow_matching`.

    Args:
        weight: of each number of a latent, mean 1; see `by_place`. look: latents -> what is seen of them, differentiable.
        price: of the difference in what is seen. late: the time from which it counts. drop: share of rows without their condition.
    """
    clean, source = batch.clean, normal(batch.clean, generator)
    t = draw(density, len(clean), generator).to(clean)
    told = dropped(batch.condition, flow.null, drop, generator) if batch.condition and drop else batch.condition
    c, x = at(flow.path, t, clean), mix(flow.path, source, clean, t)
    v = flow.bind(*told).velocity(x, t) if told else flow.velocity(x, t)
    error = (v - (c.d_sigma * source + c.d_alpha * clean)).square()
    loss = (error if weight is None else weight.to(error) * error).flatten(1).mean(1)
    rows = (t > late).nonzero()[:, 0]
    if look is None or not len(rows):
        return loss
    guess = ends_from_velocity(flow.path, v[rows], x[rows], t[rows]).clean
    with torch.no_grad():
        goal = look(clean[rows])
    apart = (look(guess) - goal).square().flatten(1).mean(1)
    return loss.index_add(0, rows, price * (t[rows] - late) / (1 - late) * apart)
