"""PMRF: posterior-mean rectified flow, trained. Ohayon et al. 2025, arXiv:2410.00418, Alg. 1.

    mean   <- regressor(measured);   loss of stage 1 = |mean - clean|^2
    source <- mean + spread noise
    loss of stage 2 = |velocity(t clean + (1 - t) source, t) - (clean - source)|^2,   the mean held fixed

The pairs are kept: a source belongs to its clean picture. The velocity does not see what was measured. The noise makes the sources
fill the space, which means alone do not, at the price of a little error (`restore.pmrf`).

Needs   pairs of clean and damaged pictures; a network with `mean` and a velocity
Cost    1 evaluation and 1 backward of each of the two networks
Paper   Stage 1, then stage 2. Here both are trained on each batch, the second from the means that the first gives at the time; the
        two losses share no weights. Both are divided by `scale`^2, which only sets the unit of what the log shows. Times are drawn in
        strata, as there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..flow import NetFlow
from ..path import at, mix
from .data import Batch
from .times import Density, draw, uniform

if TYPE_CHECKING:
    from collections.abc import Callable


def regression(
    flow: NetFlow, batch: Batch, generator: torch.Generator, *, mean: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Stage 1: the mean squared error of each row's mean `(b,)`. Ohayon et al. 2025, arXiv:2410.00418.

    Args:
        mean: measured pictures -> means; default: that of the flow's network. The batch's first condition is what was measured.
    """
    return (_mean_of(flow, mean)(_measured(batch)) - batch.clean).square().flatten(1).mean(1)


def rectified(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    spread: float,
    mean: Callable[[Tensor], Tensor] | None = None,
    density: Density = uniform,
) -> Tensor:
    """Stage 2: the squared error of each row's velocity `(b,)` along the line from its noised mean to its clean picture.
    Ohayon et al. 2025, arXiv:2410.00418.

    Args:
        spread: standard deviation of the noise, in the unit of the picture. mean: as for `regression`; it is not trained here.
        density: of the time.
    """
    with torch.no_grad():
        source = _mean_of(flow, mean)(_measured(batch))
    return _error(flow, batch, source, generator, spread, density)


def pmrf(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    spread: float,
    scale: float = 1.0,
    density: Density = uniform,
) -> Tensor:
    """Both stages on one batch: the sum of the two losses over scale^2, `(b,)`. Ohayon et al. 2025, arXiv:2410.00418.

    Args:
        spread, density: as for `rectified`. scale: the unit of an error.
    """
    mean = _mean_of(flow, None)(_measured(batch))
    first = (mean - batch.clean).square().flatten(1).mean(1)
    return (first + _error(flow, batch, mean.detach(), generator, spread, density)) / scale**2


def _error(
    flow: NetFlow, batch: Batch, mean: Tensor, generator: torch.Generator, spread: float, density: Density
) -> Tensor:
    clean = batch.clean
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    source = mean.to(clean) + spread * noise
    t = draw(density, len(clean), generator).to(clean)
    a = at(flow.path, t, clean)
    velocity = replace(flow, condition=()).velocity(mix(flow.path, source, clean, t), t)
    return (velocity - (a.d_sigma * source + a.d_alpha * clean)).square().flatten(1).mean(1)


def _mean_of(flow: NetFlow, mean: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    net: Any = flow.net
    found: Callable[[Tensor], Tensor] | None = mean or getattr(net, "mean", None)
    if found is None:
        raise ValueError(
            f"pmrf: expected a network with a regressor `mean`, got {type(net).__name__}; pass mean= or use priors.Pair"
        )
    return found


def _measured(batch: Batch) -> Tensor:
    if not batch.condition:
        raise ValueError("pmrf: expected what was measured as the batch's first condition, got a batch without any")
    return batch.condition[0]
