"""Policies: what one call of a network says of the path from there on, followed without the network; ArcFlow and π-Flow learn them.

`momentum.Momentum` is one, in closed form. Here is the other, the mixture of π-Flow (Chen et al. 2025, arXiv:2510.14974; GMFlow,
arXiv:2504.05304): the law of the clean state, seen from (x_s, s), is sum_k w_k N(mean_k, variance); at another state x of the same path
Bayes' rule says exactly what is left of it,

    z <- (alpha/sigma)^2 - (alpha_s/sigma_s)^2,   n <- alpha x / sigma^2 - alpha_s x_s / sigma_s^2
    log w_k <- log w_k + (mean_k . n - z |mean_k|^2 / 2) / (variance z + 1),       . over the channels
    clean   <- (variance n + sum_k w_k mean_k) / (variance z + 1),   and the velocity that goes with it
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from .flow import Flow
from .flow_map import Distilled
from .path import Path, at, ends_from_clean, ends_from_velocity, velocity
from .shapes import State, Time


class Policy(Protocol):
    """What both have."""

    def moved(self, x: State, a: Tensor, b: Tensor) -> State:
        """The state at b of the path that passes x `(b, *shape)` at a."""

    def thinned(self, share: float, generator: torch.Generator) -> Self:
        """Constants, with each part of a row left out with probability `share`; one of them at least stays."""


def without(logits: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Logits `(b, k, ...)` of the parts of each row, minus infinity for a random `share` of the parts; one of a row at least stays."""
    keep = torch.rand(logits.shape[:2], generator=generator, device=logits.device) >= share
    keep[:, 0] |= ~keep.any(1)
    return logits.detach().masked_fill(~keep.view(*keep.shape, *[1] * (logits.ndim - 2)), -torch.inf)


def mixed(
    policy: Policy, teacher: Flow, x: State, t: Tensor, length: float, looks: int, guided: float, generator: torch.Generator
) -> Iterator[tuple[State, Tensor, State, Tensor]]:  # fmt: skip
    """States of a path that goes by the policy and by the teacher in turns, over random lengths of time: (x, t, u, hop), the state, its
    time, the teacher's velocity there, and how far it is followed.

    Args:
        policy: constants. x, t: where the path begins. length: of time in all, at most. looks: states that the teacher is asked at.
        guided: share of the length that goes by the teacher.
    """
    own = _lengths((1 - guided) * length, looks, False, generator)
    hops = _lengths(guided * length, looks, True, generator)
    for roll, hop in zip(own, hops, strict=True):
        x, t = policy.moved(x, t, t + roll), t + roll
        with torch.no_grad():
            u = teacher.velocity(x, t)
        yield x, t, u, hop
        x, t = x + hop.to(x) * u, t + hop


def _lengths(whole: float, count: int, full: bool, generator: torch.Generator) -> Tensor:
    """So many random lengths `(count,)` float64 that add up to `whole`, or, not full, to less."""
    places = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).cpu().sort().values
    if full:
        places = torch.cat([places[: count - 1], places.new_ones(1)])
    return whole * torch.diff(places, prepend=places.new_zeros(1))


class Mixture(NamedTuple):
    """A mixture for each row, seen at the state x `(b, *shape)` at the time `start`.

    Attributes:
        means: `(b, k, *shape)`. logits: of their weights, `(b, k, 1, ...)`. variance: `(b, 1, 1, ...)`, that of each number of a part.
        start: before 1. path: of the prior. pieces: steps of the midpoint rule that a path over all times has.
    """

    means: Tensor
    logits: Tensor
    variance: Tensor
    x: Tensor
    start: Tensor
    path: Path
    pieces: int = 16

    def clean(self, x: State, t: Time) -> State:
        """The mean of the clean state, given that the path passes x at t < 1."""
        here, first = at(self.path, t, x), at(self.path, self.start, x)
        z = _wide((here.alpha / here.sigma) ** 2 - (first.alpha / first.sigma) ** 2)
        n = (here.alpha / here.sigma**2 * x - first.alpha / first.sigma**2 * self.x)[:, None]
        whole = self.variance * z + 1
        fit = (self.means * (n - z / 2 * self.means)).sum(2, keepdim=True) / whole
        mean = ((self.logits + fit).softmax(1) * self.means).sum(1, keepdim=True)
        return ((self.variance * n + mean) / whole)[:, 0]

    def velocity(self, x: State, t: Time) -> State:
        """Of the path that passes x `(b, *shape)` at t < 1."""
        return velocity(self.path, ends_from_clean(self.path, self.clean(x, t), x, t), t)

    def moved(self, x: State, a: Tensor, b: Tensor) -> State:
        """The state at b of the path that passes x `(b, *shape)` at a."""
        count = max(1, math.ceil(float((b - a).max()) * self.pieces - 1e-9))
        h = (b - a) / count
        for index in range(count):
            t = a + index * h
            half = x + _as(h / 2, x) * self.velocity(x, t)
            x = x + _as(h, x) * self.velocity(half, t + h / 2)
        return x

    def average(self, x: State, a: Tensor, b: Tensor) -> State:
        """The mean velocity from x at a to the time b; that at a where they are nearer than a piece."""
        if float((b - a).max()) * self.pieces < 1:
            return self.velocity(x, a)
        return (self.moved(x, a, b) - x) / _as(b - a, x)

    def thinned(self, share: float, generator: torch.Generator) -> Mixture:
        """Constants, with each part of a row left out with probability `share`; one of them at least stays."""
        left = without(self.logits, share, generator)
        return self._replace(means=self.means.detach(), logits=left, variance=self.variance.detach())


def _as(t: Time, x: State) -> Tensor:
    """A time, 0-dim or `(b,)`, that multiplies the states x."""
    return t.to(x).reshape(-1, *(1,) * (x.ndim - 1)) if t.ndim else t.to(x)


def _wide(c: Tensor) -> Tensor:
    """A number for each row, that multiplies the parts."""
    return c[:, None] if c.ndim else c


@dataclass(frozen=True, eq=False)
class PiFlow(Distilled):
    """A network that gives a mixture: `net(x, t, *condition)` -> `(velocities, logits, spread)`, the velocities to the means, and the
    logarithm of the parts' standard deviation in units of sigma; see `Mixture`. It is a flow, and a flow map."""

    pieces: int = 16

    def mixture(self, x: State, s: Time) -> Mixture:
        """What the path through x at s < 1 does from there on; one evaluation."""
        velocities, logits, spread = self._found(x, s)
        many = velocities.shape[1]
        rows = x.repeat_interleave(many, 0)
        times = s.repeat_interleave(many) if s.ndim else s
        means = ends_from_velocity(self.path, velocities.flatten(0, 1), rows, times).clean.unflatten(0, (-1, many))
        variance = (2 * spread).exp() * _wide(at(self.path, s, x).sigma) ** 2
        return Mixture(means, logits, variance, x, s, self.path, self.pieces)

    def velocity(self, x: State, t: Time) -> State:
        velocities, logits, _ = self._found(x, t)
        return (logits.softmax(1) * velocities).sum(1)

    def map(self, x: State, s: Time, t: Time) -> State:
        """The state at t on the path through x at s < 1."""
        return self.mixture(x, s).moved(x, s, t)

    def _found(self, x: State, s: Time) -> tuple[Tensor, Tensor, Tensor]:
        weight = next(self.net.parameters(), x)
        told = self._told(len(x), weight.device)
        velocities, logits, spread = self.net(x.to(weight), s.to(weight).expand(len(x)), *told)
        return velocities.to(x), logits.to(x), spread.to(x)


__all__ = ["Mixture", "PiFlow", "Policy", "mixed", "without"]
