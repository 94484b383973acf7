"""Do samples follow a law? Distances of (weighted) samples `(n, ...)`, flattened, from others or from given moments.

Weights `(n,)` need not be normalised; None for equal ones. Everything is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .frechet import frechet


def moments(samples: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean `(d,)` and covariance `(d, d)` of the weighted samples (of the sample itself: divided by n, not n - 1). flowhelm's own."""
    x, w = _weighted(samples, weights)
    mean = w @ x
    centred = x - mean
    return mean, (w[:, None] * centred).T @ centred


def mean_error(samples: Tensor, mean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Euclidean distance of the samples' mean from `mean` `(d,)`: 0-dim. flowhelm's own."""
    return (moments(samples, weights)[0] - mean.double()).norm()


def trace_ratio(samples: Tensor, covariance: Tensor, weights: Tensor | None = None) -> Tensor:
    """Trace of the samples' covariance over that of `covariance` `(d, d)`: below 1, too little spread. 0-dim. flowhelm's own."""
    return moments(samples, weights)[1].trace() / covariance.double().trace()


def gaussian_w2(a: Tensor, b: Tensor, weights_a: Tensor | None = None, weights_b: Tensor | None = None) -> Tensor:
    """2-Wasserstein distance of the normal laws with the two samples' moments: 0-dim; the root of `frechet`. Dowson & Landau 1982."""
    return frechet(*moments(a, weights_a), *moments(b, weights_b)).sqrt()


def sliced_w2(
    a: Tensor,
    b: Tensor,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
    *,
    projections: int = 128,
    seed: int = 0,
) -> Tensor:
    """Sliced 2-Wasserstein distance of two weighted samples, `(n, d)` and `(m, d)`: 0-dim. Bonneel et al. 2015.

    The root of the mean, over random directions, of the squared distance of the projections, int (F_a^-1 - F_b^-1)^2,
    which is exact for each direction. It does not vanish between two samples of one law: put that floor beside it.

    Args:
        projections: how many directions; seed: of them.
    """
    (x, w), (z, v) = _weighted(a, weights_a), _weighted(b, weights_b)
    if x.shape[1] != z.shape[1]:
        raise ValueError(f"sliced_w2: expected samples of one dimension, got {x.shape[1]} and {z.shape[1]}")
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(projections, x.shape[1], generator=generator, dtype=torch.float64), dim=1).to(x)
    total = sum(_w2_on_lines(x @ some.T, w, z @ some.T, v) for some in directions.split(16))
    return (torch.as_tensor(total) / projections).sqrt()


def _w2_on_lines(x: Tensor, w: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Sum over columns of the squared distance of x `(n, p)` from z `(m, p)`: both quantile functions are steps."""
    (x, order_x), (z, order_z) = x.T.sort(dim=1), z.T.sort(dim=1)
    below_x, below_z = w[order_x].cumsum(1), v[order_z].cumsum(1)
    levels = torch.cat([below_x, below_z], 1).clamp(max=1).sort(dim=1)[0]
    widths = levels.diff(dim=1, prepend=torch.zeros_like(levels[:, :1]))
    middle = levels - widths / 2  # inside a step, so that rounding picks no neighbour
    at_x, at_z = (torch.searchsorted(below, middle).clamp(max=below.shape[1] - 1) for below in (below_x, below_z))
    return (widths * (x.gather(1, at_x) - z.gather(1, at_z)).square()).sum()


def _weighted(samples: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    x = samples[:, None].flatten(1).double()
    w = torch.ones_like(x[:, 0]) if weights is None else weights.to(x)
    if not len(x) or w.shape != x.shape[:1] or not (w >= 0).all() or not 0 < w.sum() < torch.inf:
        raise ValueError(
            f"metrics: expected samples (n, ...) and weights (n,), not negative and not all 0, got {tuple(samples.shape)} "
            f"and {tuple(w.shape)}"
        )
    return x, w / w.sum()
