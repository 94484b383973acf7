"""Flows that can be trained to any affine change, exactly: a correction W(t) x + c(t) of an exact flow, linear between knots in time."""

import inspect
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowhelm import Flow, Noise, Update, Wrapped
from flowhelm.guide.counted import counted
from flowhelm.learning import Copy


class Affine(nn.Module):
    """(x, t) -> W(t) x + c(t), 0 at first; `knots` in time, the values between them interpolated."""

    def __init__(self, size: int, knots: int, matrix: bool = True):
        super().__init__()
        self.knots = knots
        self.shift = nn.Parameter(torch.zeros(knots, size, dtype=torch.float64))
        self.matrix = nn.Parameter(torch.zeros(knots, size, size, dtype=torch.float64), requires_grad=matrix)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        place = t.to(x).expand(len(x)) * (self.knots - 1)
        low = place.floor().long().clamp(0, self.knots - 2)
        right = (place - low)[:, None]
        shift = (1 - right) * self.shift[low] + right * self.shift[low + 1]
        matrix = (1 - right[..., None]) * self.matrix[low] + right[..., None] * self.matrix[low + 1]
        return shift + (matrix @ x[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class Learner(Wrapped):
    """An exact flow and a correction that is trained."""

    flow: Flow
    net: nn.Module

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.flow.velocity(x, t) + self.net(x, t)

    def source(self, noise: Noise) -> Tensor:
        return noise(torch.empty(len(noise), *self.shape, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Given(Wrapped):
    """A flow whose velocity is a function, with a weight of no effect for an optimiser to have."""

    flow: Flow
    change: object  # (x, t) -> what is added to the velocity
    weight: nn.Parameter
    start: float

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.flow.velocity(x, t) + self.change(x, t) + 0 * self.weight

    source = Learner.source

    def times(self, steps: int) -> Tensor:
        """From a little after 0, where differences in time have two sides."""
        return torch.linspace(self.start, 1, steps + 1, dtype=torch.float64)


def given(flow, change, start=0.02):
    """A flow that nothing can change, and an optimiser that changes nothing: what a method says of it is all there is."""
    weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
    return Given(flow, change, weight, start), torch.optim.SGD([weight], lr=0.0)


def started(base, seed=0, knots=6, size=0.1) -> Learner:
    """One whose correction is not nothing, drawn."""
    torch.manual_seed(seed)
    net = Affine(base.shape[0], knots)
    for each in net.parameters():
        each.data = size * torch.randn_like(each)
    return Learner(base, net)


class Spent(NamedTuple):
    """Calls of the flow and of its base, those that are differentiated, and calls of the reward."""

    calls: int
    backward: int
    base: int
    base_backward: int
    rewards: int


def spent(method, learner, base, reward, rows, **options) -> Spent:
    """What an update costs."""
    flow, frozen, seen = counted(learner), counted(base), []
    value = options.get("value")
    adam = torch.optim.Adam([*learner.net.parameters(), *(() if value is None else value.parameters())])
    if "old" in inspect.signature(method).parameters:
        options["old"] = Copy.of(adam)
    seeing = lambda x: seen.append(1) or reward(x)  # noqa: E731
    last(method(flow, frozen, seeing, adam, noise=Noise(0, rows), updates=1, **options))
    return Spent(flow.count.calls, flow.count.backward, frozen.count.calls, frozen.count.backward, len(seen))


def last(updates) -> Update:
    for update in updates:  # noqa: B007
        pass
    return update


def halved(optimizer: torch.optim.Optimizer, updates, every: int):
    """Runs a method; the rate falls by half `every` so many updates, so that it settles."""
    for update in updates:
        if update.index % every == 0:
            for group in optimizer.param_groups:
                group["lr"] /= 2
    return update


@torch.no_grad()
def mapped(flow: Flow, z: Tensor, steps: int = 100) -> Tensor:
    """Where the flow's ODE carries z: Heun steps."""
    from flowhelm.solve import integrate
    from flowhelm.step import run
    from flowhelm.transition import heun

    return run(integrate(flow, z, torch.linspace(0, 1, steps + 1, dtype=torch.float64), transition=heun)).x
