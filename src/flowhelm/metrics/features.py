"""Distance of two pictures in the features of a trained network. Zhang et al. 2018, arXiv:1801.03924, eq. (1).

    d(a, b) = sum_l mean_pixels sum_channels w_l (f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)|)^2

The norm is over the channels. Without weights w_l = 1: a level adds at most 4, and 2 for features that are not below 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """Distance of the levels f_l of two batches, each `(n, c_l, h_l, w_l)`: `(n,)`, 0 for equal ones. Zhang et al. 2018, arXiv:1801.03924.

    Args:
        weights: one for each level, of the channels, broadcast to `(c_l, h_l, w_l)`.

    Where a network has no feature at all (|f| = 0) it counts as 0, not as a direction.
    """
    shapes = [tuple(x.shape) for x in a], [tuple(x.shape) for x in b]
    if not a or shapes[0] != shapes[1] or any(len(shape) != 4 for shape in shapes[0]):
        raise ValueError(
            f"feature_distance: expected levels (n, c, h, w) of the same shapes, got {shapes[0]} and {shapes[1]}"
        )
    parts = []
    for level, (x, y) in enumerate(zip(a, b, strict=True)):
        square = (_directions(x) - _directions(y)).square()
        parts.append((square if weights is None else weights[level] * square).sum(1).mean((1, 2)))
    return torch.stack(parts).sum(0)


def _directions(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-16).sqrt()
