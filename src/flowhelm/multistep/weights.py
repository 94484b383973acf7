"""The numbers of multi-step solvers: weights from moments, moments of a kernel, and a quadrature. Nothing here is a tensor outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """w_j with sum_j w_j nodes_j^k = moments_k, k = 1 ... n: the integrals of the Lagrange polynomials on 0 and the nodes."""
    found = []
    for j, here in enumerate(nodes):
        polynomial, scale = [0.0, 1.0], here  # theta, to vanish at the newest node
        for other in (n for i, n in enumerate(nodes) if i != j):
            shifted = [0.0, *polynomial]
            polynomial = [a - other * b for a, b in zip(shifted, [*polynomial, 0.0], strict=True)]
            scale *= here - other
        found.append(sum(c * m for c, m in zip(polynomial[1:], moments, strict=True)) / scale)
    return found


def exponential(h: float, count: int) -> list[float]:
    """Averages of theta^k, k = 1 ... count, over [0, 1] with the density proportional to e^(h theta)."""
    if abs(h) < 1:  # the recursion below would cancel
        terms = [(-h) ** n for n in range(24)]  # of e^(-h (1 - theta)), integrated with theta^k
        j = [
            sum(c * math.factorial(k) / math.factorial(n + k + 1) for n, c in enumerate(terms))
            for k in range(count + 1)
        ]
    else:
        j = [-math.expm1(-h) / h]
        for k in range(1, count + 1):
            j.append((1 - k * j[-1]) / h)
    return [each / j[0] for each in j[1:]]


@cache
def legendre(points: int = 16) -> list[tuple[float, float]]:
    """Nodes and masses on [0, 1], by the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, points, dtype=torch.float64)
    beta = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return list(zip(((values + 1) / 2).tolist(), (vectors[0] ** 2).tolist(), strict=True))
