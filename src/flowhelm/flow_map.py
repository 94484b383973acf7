"""Flow maps by a network of two times: one evaluation goes from a time to any later one.

    u(x, s -> t) = (x_t - x_s) / (t - s),   the average velocity of the path through x at s;   u(x, t -> t) = v(x, t)
    along the flow, t fixed:          v(x_s, s) = u - (t - s) du/ds
    anchored at the source z, s = 0:  v(f, t) = u + t du/dt,  f = z + t u,  z fixed

Sources: Geng et al. 2025 (mean flows), arXiv:2505.13447; Boffi et al. 2025 (flow maps), arXiv:2505.18825;
Tong et al. 2025 (FreeFlow), arXiv:2511.19428.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from .flow import Flow, FlowMap, NetFlow, Wrapped
from .path import Ends, Path, at, ends_from_clean
from .shapes import State, Time

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x `(b, *shape)`, s, t) -> average velocity from s to t; both times 0-dim, or `(b,)`."""


@dataclass(frozen=True, eq=False)
class Distilled(NetFlow):
    """A network that has its teacher's guidance inside: `bind` refuses another. As a `FlowMap` it moves as Euler's rule does."""

    def bind(self, *condition: Tensor, guidance: Callable[..., Tensor] | None = None) -> Self:
        if guidance is not None:
            raise ValueError(
                f"{type(self).__name__}: a distilled network has its teacher's guidance inside; bind it without guidance"
            )
        return super().bind(*condition)

    def map(self, x: State, s: Time, t: Time) -> State:
        """The state at t on the path through x at s; times 0-dim, or `(b,)`."""
        return x + _as(t - s, x) * self.velocity(x, s)


@dataclass(frozen=True, eq=False)
class NetMap(Distilled):
    """A network of two times: `net(x, s, t, *condition)` with x `(b, *shape)` and times `(b,)` -> average velocity from s to t.

    It is a `Flow`, of velocity u(x, t -> t), and a `FlowMap`.
    """

    def average(self, x: State, s: Time, t: Time) -> State:
        """u(x, s -> t), shaped and typed as x; one evaluation."""
        weight = next(self.net.parameters(), x)
        told = self._told(len(x), weight.device)
        return self.net(x.to(weight), s.to(weight).expand(len(x)), t.to(weight).expand(len(x)), *told).to(x)

    def velocity(self, x: State, t: Time) -> State:
        return self.average(x, t, t)

    def map(self, x: State, s: Time, t: Time) -> State:
        """The state at t on the path through x at s; times 0-dim, or `(b,)`."""
        return x + _as(t - s, x) * self.average(x, s, t)


def along(
    average: Average, x: State, s: Time, t: Time, v: State, *, step: float | None = None
) -> tuple[Tensor, Tensor]:
    """u(x, s -> t) and its derivative du/ds along the flow, (v . d/dx + d/ds) u with t fixed, both shaped as x and detached.

    Args:
        s, t: `(b,)`. v: the velocity at (x, s).
        step: None for a forward-mode derivative; else a central difference of this length in time, one more evaluation, for networks
            whose attention has no forward mode.
    """
    return _changed(lambda z, r: average(z, r, t), x, s, v, step)


def onwards(average: Average, z: Tensor, t: Time, *, step: float | None = None) -> tuple[Tensor, Tensor]:
    """u(z, 0 -> t) and its partial derivative du/dt with the source z fixed, both shaped as z and detached. `step` as in `along`."""
    return _changed(lambda x, r: average(x, torch.zeros_like(r), r), z, t, torch.zeros_like(z), step)


@torch.no_grad()
def _changed(
    function: Callable[[Tensor, Tensor], Tensor], x: State, s: Time, v: State, step: float | None
) -> tuple[Tensor, Tensor]:
    if step is None:
        value, change = torch.func.jvp(function, (x, s), (v, torch.ones_like(s)))  # type: ignore[misc]
        return value.detach(), change.detach()
    early, late = (s - step / 2).clamp(min=0), (s + step / 2).clamp(max=1)
    change = function(x + _as(late - s, x) * v, late) - function(x + _as(early - s, x) * v, early)
    return function(x, s), change / _as(late - early, x)


def _as(t: Time, x: State) -> Tensor:
    """A time, 0-dim or `(b,)`, that multiplies the states x."""
    return t.to(x).reshape(-1, *(1,) * (x.ndim - 1)) if t.ndim else t.to(x)


@dataclass(frozen=True, eq=False)
class Ahead(Wrapped):
    """A flow whose clean estimate is where the map of another ends; see `ahead`."""

    flow: Flow

    def ends(self, x: State, t: Time) -> Ends:
        clean = self.flow.map(x, t, torch.ones_like(t))  # type: ignore[attr-defined]
        return ends_from_clean(self.path, clean, x, t)

    def velocity(self, x: State, t: Time) -> State:
        here, ends = at(self.path, t, x), self.ends(x, t)
        return here.d_alpha * ends.clean + here.d_sigma * ends.source


def ahead(flow: Flow) -> Ahead:
    """The same flow map, whose clean estimate at (x, t) is the end of the path through x, map(x, t, 1), in place of a mean: for methods of
    few steps (`hqs`, `pnp_flow`, `diffpir`) that ask for a clean estimate before t = 1. 1 evaluation. flowhelm's own.

    Raises:
        ValueError: a flow that is no map.
    """
    if not isinstance(flow, FlowMap):
        raise ValueError(f"ahead: expected a flow map, such as a student of flowhelm distil, got {type(flow).__name__}")
    return Ahead(flow)


class Mapping(FlowMap, Protocol):
    """A flow map that knows its path."""

    path: Path


@torch.no_grad()
def jump(flow: Mapping, x: State, s: Time, t: Time, fresh: Tensor, *, h: float) -> State:
    """A stochastic step of a flow map from s to t > s: past t, and back to it with fresh noise.

    m = (sigma_t alpha_s / (sigma_s alpha_t))^(h^2);  x_d <- map(x, s, d) at the time d whose noise is sigma_t m to alpha_t;
    x_t <- (alpha_t + sigma_t m) x_d + sigma_t sqrt(1 - m^2) fresh, for a path with alpha + sigma = 1.

    Args:
        fresh: standard normal, shaped as x. h: 0 goes straight; infinity goes to the end and renoises it (consistency sampling).
    """
    a, b = flow.path(s.double()), flow.path(t.double())
    m = ((b.sigma * a.alpha) / (a.sigma * b.alpha)) ** (h * h) if h else torch.ones(())
    whole = b.alpha + b.sigma * m
    ahead = flow.map(x, s, b.alpha / whole)
    return whole.to(x) * ahead + (b.sigma * (1 - m**2).clamp(min=0).sqrt()).to(x) * fresh


__all__ = ["Ahead", "Average", "Distilled", "NetMap", "ahead", "along", "jump", "onwards"]
