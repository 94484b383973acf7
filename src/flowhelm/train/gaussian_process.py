"""Gaussian processes: the prior of `pfn` and `functional_prior`, and their judge. Rasmussen & Williams 2006, algorithm 2.1.

    k(a, b) = exp(-|a - b|^2 / (2 length^2)),   y = f(x) + noise e,   f ~ GP(0, k),   e ~ N(0, 1)
    y* | x*, x, y ~ N(K* C^-1 y, 1 + noise^2 - K* C^-1 K*^T),   C = K + noise^2
    log p(y | x) = -(y C^-1 y + log det C + n log 2 pi) / 2

Cost    for n points n^3
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianProcess:
    """Functions of unit variance with a squared-exponential kernel; one for all data sets, or one for each.

    Args:
        length: > 0, in the unit of x; a number or `(b,)`.
        noise: > 0, standard deviation of the noise on y; a number or `(b,)`.

    Points are x `(b, n, d)` and y `(b, n)`. Use float64 where the noise is below 0.01.
    """

    length: float | Tensor
    noise: float | Tensor

    def kernel(self, one: Tensor, other: Tensor) -> Tensor:
        """Covariances of f: `(b, n, d)`, `(b, m, d)` -> `(b, n, m)`."""
        # not cdist, whose rounding a root and a square would double
        square = (one[:, :, None] - other[:, None]).square().sum(-1)
        return torch.exp(-square / (2 * _wide(self.length, one) ** 2))

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """y at x: `(b, n)`."""
        z = torch.randn(x.shape[:2], generator=generator, device=x.device, dtype=x.dtype)
        return (self._root(x) @ z[..., None])[..., 0]

    def predict(self, x: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of y at each of the points `(b, m, d)`, given the points x and y: two `(b, m)`."""
        cross = torch.linalg.solve_triangular(self._root(x), self.kernel(x, at), upper=False)
        white = torch.linalg.solve_triangular(self._root(x), y[..., None], upper=False)
        variance = 1 + _wide(self.noise, x)[..., 0] ** 2 - cross.square().sum(1)
        return (cross * white).sum(1), variance

    def log_density(self, x: Tensor, y: Tensor, at: Tensor, value: Tensor) -> Tensor:
        """log p(value | at, x, y) of each point by itself: `(b, m)`."""
        mean, variance = self.predict(x, y, at)
        return -0.5 * ((value - mean) ** 2 / variance + (2 * math.pi * variance).log())

    def evidence(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x): `(b,)`."""
        root = self._root(x)
        white = torch.linalg.solve_triangular(root, y[..., None], upper=False)[..., 0]
        determinant = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * (white.square().sum(1) + determinant + x.shape[1] * math.log(2 * math.pi))

    def _root(self, x: Tensor) -> Tensor:
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return torch.linalg.cholesky(self.kernel(x, x) + _wide(self.noise, x) ** 2 * eye)


def _wide(value: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).view(-1, 1, 1)
