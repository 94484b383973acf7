"""What multi-step solvers have in common: past predictions, their weights, and the step.

One step from s to t, with p the prediction (velocity, clean or source), u the variable (see `variables`) and + for t:

    x+ = keep x + gain e,    e = p_0 + w_1 (p_1 - p_0) + w_2 (p_2 - p_0) + ...

The weights integrate the polynomial through the predictions at u_0, u_1, ... exactly against the kernel of the variable. A corrector is
the same with one node more, at t itself. Nodes at infinity have no part: the order is lower there, as in the limit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..path import Ends, Path
from ..rng import Noise
from ..shapes import State, Time
from ..transition.draw import normal
from .slopes import Plain, Slope
from .variables import Coeffs, Variable, clean_factors


class Node(NamedTuple):
    """A prediction, where it was made, the path's coefficients there, and what stands for it alone (see `slopes`)."""

    u: float
    t: float
    a: Coeffs
    prediction: Tensor
    newest: Tensor
    clean: Tensor


class Past:
    """The last `order` predictions, newest first, under a transform of slopes."""

    def __init__(self, path: Path, variable: Variable, order: int, slope: Slope | None = None):
        self.path, self.variable, self.turned = path, variable, (slope or Plain)()
        self.nodes: deque[Node] = deque(maxlen=order)
        self.known: dict[float, Coeffs] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, ends: Ends, t: Time, share: float = 0.0) -> None:
        """A new prediction; `share` of the steps is done."""
        node = self.node(ends, t)
        turned = self.turned.newest(ends, node.a.alpha, node.a.sigma, share)
        if turned is not ends:
            node = node._replace(newest=self.variable.read(self.path, turned, t), clean=turned.clean)
        self.nodes.appendleft(node)

    def node(self, ends: Ends, t: Time) -> Node:
        p = self.variable.read(self.path, ends, t)
        return Node(self.place(t), float(t), self._at(t), p, p, ends.clean)

    def place(self, t: Time) -> float:
        return self.variable.place(self._at(t), float(t))

    def slope(
        self,
        t: Time,
        *,
        order: int | None = None,
        ahead: Node | None = None,
        bend: Callable[[float, list[float]], list[float]] = lambda h, moments: moments,
        stretch: float = 1.0,
    ) -> Tensor:
        """The effective slope e of the step from the newest node to t.

        Args:
            order: how many nodes take part (with `ahead`: beside it); default: all.
            ahead: the node at t, of a corrector: the step is made again.
            bend: changes the moments, for weights that are conventions: (h, moments) -> moments.
            stretch: of h in the moments, by which noise changes the kernel.
        """
        first, *others = list(self.nodes)[:order]
        h = self.place(t) - first.u
        used = [n for n in others if math.isfinite(n.u)] + ([] if ahead is None else [ahead])
        e = first.newest
        if used and math.isfinite(h):
            moments = bend(h, self.variable.moments(first.t, float(t), self.path, h * stretch, len(used)))
            for w, n in zip(weights([(n.u - first.u) / h for n in used], moments), used, strict=True):
                e = torch.add(e, n.prediction - first.prediction, alpha=w)
        return self.turned.whole(e, again=ahead is not None)

    def step(self, x: State, t: Time, e: Tensor, correlation: float = 1.0) -> Tensor:
        """x+ = keep x + gain e; with a correlation of the noise at s and at t below 1, its mean (of clean predictions)."""
        first, b = self.nodes[0], self._at(t)
        keep, gain = self.variable.factors(first.a, b, first.t, float(t))
        if not math.isfinite(keep):  # a predicted source says nothing of the clean end where alpha = 0
            keep, gain = clean_factors(first.a, b, first.t, float(t))
            e = first.clean
        if correlation != 1:
            keep = correlation * b.sigma / first.a.sigma
            gain = b.alpha - keep * first.a.alpha
        return torch.add(keep * x if keep != 1 else x, e, alpha=gain)

    def correlation(self, t: Time) -> float:
        """That the noising process gives the noises at the newest node and at t: alpha sigma+ / (sigma alpha+)."""
        a, b = self.nodes[0].a, self._at(t)
        return a.alpha * b.sigma / (a.sigma * b.alpha)

    def ancestral(self, t: Time, eta: float) -> float:
        """That k-diffusion's ancestral step leaves: down to sigma+ (1 + (sigma+ / sigma - 1) eta), and up again with fresh noise.

        In units in which alpha + sigma = 1, as on the linear path.
        """
        a, b = self.nodes[0].a, self._at(t)
        here, there = a.sigma / (a.alpha + a.sigma), b.sigma / (b.alpha + b.sigma)
        share = 1 + (there / here - 1) * eta
        return share * (1 - there) / (1 - share * there)

    def noised(self, mean: Tensor, t: Time, correlation: float, noise: Noise | None, who: str) -> Tensor:
        """The mean with what is fresh of the noise at t, sigma+ sqrt(1 - correlation^2); nothing is drawn where that is 0."""
        std = self._at(t).sigma * math.sqrt(max(1 - correlation**2, 0))
        return torch.add(mean, normal(mean, noise, who), alpha=std) if std else mean

    def _at(self, t: Time) -> Coeffs:
        """As numbers: all that follows is arithmetic of them. Each time is asked for once."""
        key = t.item()
        if key not in self.known:
            self.known[key] = Coeffs(*(c.item() for c in self.path(t.double())))
        return self.known[key]


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
