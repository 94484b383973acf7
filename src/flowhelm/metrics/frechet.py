"""Fréchet distance of two sets of features, taken as Gaussian. Dowson & Landau 1982 (doi:10.1016/0047-259X(82)90077-X, eq. 4).

    d^2 = |mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr (cov_a^{1/2} cov_b cov_a^{1/2})^{1/2}

The square is what Heusel et al. 2017 (arXiv:1706.08500, eq. 6) report as FID, in their network's features. Deviation: the
square root of the product cov_a cov_b, not symmetric, is replaced by that of the symmetric product above, which has the same
trace (both products are similar) and real eigenvalues; nothing is added to the diagonal. Own code: the well-kept packages
tie the distance to Inception features, which grey pictures of 32 pixels are not fit for.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance of N(mean_a, cov_a) and N(mean_b, cov_b): 0-dim float64, never below 0.
    Dowson & Landau 1982.

    Means `(d,)`, covariances `(d, d)`, symmetric and positive semi-definite (eigenvalues below 0 are taken as rounding).
    """
    square = (*mean_a.shape, *mean_a.shape)
    if mean_a.ndim != 1 or mean_b.shape != mean_a.shape or cov_a.shape != square or cov_b.shape != square:
        raise ValueError(
            f"frechet: expected two means (d,) and two covariances (d, d), got {tuple(mean_a.shape)}, "
            f"{tuple(cov_a.shape)}, {tuple(mean_b.shape)} and {tuple(cov_b.shape)}"
        )
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared
    return distance.clamp(min=0)


def frechet_features(a: Tensor, b: Tensor) -> Tensor:
    """Squared Fréchet distance of the Gaussians fitted to features `(n, d)` and `(m, d)`: 0-dim float64.
    FID, Heusel et al. 2017, arXiv:1706.08500, if the features are Inception's.

    It depends on n and m: between samples of one normal law, with eigenvalues l of its covariance, it is not 0 but on average

        (1/n + 1/m) (sum_i l_i + 1/2 sum_ij (1 + [i = j]) l_i l_j / (l_i + l_j))  +  smaller terms

    (second order in the covariances' errors; derived here, tested). So compare distances of equal counts, and put that
    of two real sets beside them.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"frechet_features: expected features (n, d) and (m, d) of two rows or more, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.double(), b.double()
    return frechet(a.mean(0), _covariance(a), b.mean(0), _covariance(b))


def _covariance(rows: Tensor) -> Tensor:
    """Unbiased, `(d, d)`; torch.cov would give a number for d = 1."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)
