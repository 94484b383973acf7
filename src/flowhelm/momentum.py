"""A curved velocity profile in closed form: a mixture of exponentials in time. ArcFlow 2026, arXiv:2602.09014.

v(t) = sum_k pi_k v_k exp(rate_k (t - start)),        each part solves dv_k/dt = rate_k v_k
int_a^b v dt = sum_k pi_k v_k exp(rate_k (a - start)) E(rate_k (b - a)) (b - a),     E(y) = (e^y - 1) / y
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .flow_map import Distilled
from .policy import without
from .shapes import State, Time


class Momentum(NamedTuple):
    """A profile for each row, seen at the time `start`.

    Attributes:
        parts: `(b, k, *shape)`, the velocities v_k. logits: of their weights, `(b, k, 1, ...)`. rates: `(b, k, 1, ...)`, 0 for the first.
        start: 0-dim or `(b,)`.
    """

    parts: Tensor
    logits: Tensor
    rates: Tensor
    start: Tensor

    def velocity(self, t: Time) -> Tensor:
        """v(t), `(b, *shape)`."""
        grown = (self.rates * self._since(t)).exp()
        return (self.logits.softmax(1) * grown * self.parts).sum(1)

    def average(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean of v over [a, b], `(b, *shape)`; v(a) where they are the same."""
        grown = (self.rates * self._since(a)).exp() * mean_growth(self.rates * (self._since(b) - self._since(a)))
        return (self.logits.softmax(1) * grown * self.parts).sum(1)

    def moved(self, x: State, a: Tensor, b: Tensor) -> State:
        """The state at b of the path that passes x `(b, *shape)` at a."""
        return x + (self._since(b) - self._since(a))[:, 0] * self.average(a, b)

    def thinned(self, share: float, generator: torch.Generator) -> Momentum:
        """Constants, with each part of a row left out with probability `share`; one of them at least stays."""
        left = without(self.logits, share, generator)
        return Momentum(self.parts.detach(), left, self.rates.detach(), self.start)

    def _since(self, t: Time) -> Tensor:
        """t - start, as what multiplies the parts: `(b or 1, 1, 1, ...)`."""
        return (t - self.start).to(self.rates).reshape(-1, *[1] * (self.rates.ndim - 1))


def mean_growth(y: Tensor) -> Tensor:
    """E(y) = (e^y - 1) / y, smooth at 0."""
    small = y.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(y), y)
    return torch.where(small, 1 + y / 2 + y.square() / 6, torch.expm1(safe) / safe)


@dataclass(frozen=True, eq=False)
class ArcFlow(Distilled):
    """A network that gives a profile: `net(x, t, *condition)` -> `(parts, logits, rates)`, see `Momentum`. It is a flow, and a flow map."""

    def profile(self, x: State, s: Time) -> Momentum:
        """What the path through x at s does from there on; one evaluation."""
        weight = next(self.net.parameters(), x)
        told = self._told(len(x), weight.device)
        parts, logits, rates = self.net(x.to(weight), s.to(weight).expand(len(x)), *told)
        return Momentum(parts.to(x), logits.to(x), rates.to(x), s)

    def velocity(self, x: State, t: Time) -> State:
        return self.profile(x, t).velocity(t)

    def map(self, x: State, s: Time, t: Time) -> State:
        """The state at t on the path through x at s."""
        return self.profile(x, s).moved(x, s, t)
