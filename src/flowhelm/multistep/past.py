"""What multi-step solvers have in common: past predictions, their weights, and the step.

One step from s to t, with p the prediction (velocity, clean or source), u the variable (see `variables`) and + for t:

    x+ = keep x + gain e,    e = p_0 + w_1 (p_1 - p_0) + w_2 (p_2 - p_0) + ...

The weights integrate the polynomial through the predictions at u_0, u_1, ... exactly against the kernel of the variable. A corrector is
the same with one node more, at t itself. Nodes at infinity have no part: the order is lower there, as in the limit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..path import Ends, Path
from ..rng import Noise
from ..shapes import State, Time
from ..transition.draw import normal
from .slopes import Plain, Slope
from .variables import Coeffs, Variable, clean_factors
from .weights import weights


class Node(NamedTuple):
    """A prediction, where it was made, the path's coefficients there, and what stands for it alone (see `slopes`)."""

    u: float
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

    def add(self, ends: Ends, t: Time, share: float = 0.0, node: Node | None = None) -> None:
        """A new prediction; `share` of the steps is done. `node`: that of these ends, if it is there already."""
        node = node or self.node(ends, t)
        turned = self.turned.newest(ends, node.a.alpha, node.a.sigma, share)
        if turned is not ends:
            node = node._replace(newest=self.variable.read(node.a, turned), clean=turned.clean)
        self.nodes.appendleft(node)

    def node(self, ends: Ends, t: Time) -> Node:
        a = self._at(t)
        p = self.variable.read(a, ends)
        return Node(self.variable.place(a), a, p, p, ends.clean)

    def place(self, t: Time) -> float:
        return self.variable.place(self._at(t))

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
        b = self._at(t)
        h = self.variable.place(b) - first.u
        used = [n for n in others if math.isfinite(n.u)] + ([] if ahead is None else [ahead])
        e = first.newest
        if used and math.isfinite(h):
            moments = bend(h, self.variable.moments(first.a, b, self.path, h * stretch, len(used)))
            shares = weights([(n.u - first.u) / h for n in used], moments)
            for w, n in zip(shares, used, strict=True):  # differences: sums of large shares would round more
                if e is first.prediction:
                    e = torch.lerp(e, n.prediction, w)  # the same in one pass
                else:
                    e = torch.add(e, n.prediction - first.prediction, alpha=w)
        return self.turned.whole(e, again=ahead is not None)

    def step(self, x: State, t: Time, e: Tensor, correlation: float = 1.0) -> Tensor:
        """x+ = keep x + gain e; with a correlation of the noise at s and at t below 1, its mean (of clean predictions)."""
        first, b = self.nodes[0], self._at(t)
        keep, gain = self.variable.factors(first.a, b)
        if not math.isfinite(keep):  # a predicted source says nothing of the clean end where alpha = 0
            keep, gain = clean_factors(first.a, b)
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
            self.known[key] = Coeffs._make([*(c.item() for c in self.path(t.double())), key])
        return self.known[key]
