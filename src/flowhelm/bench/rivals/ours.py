"""What the comparison with other libraries shares: the problem, the counting network, and our side of every pair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...control import flower
from ...flow import Flow, Wrapped
from ...measure import LinearOperator, Measurement
from ...path import linear
from ...restore.diffpir import diffpir
from ...restore.dps import dps
from ...restore.hqs import hqs
from ...restore.ot_ode import ot_ode
from ...restore.tds import tds
from ...restore.tmpd import tmpd
from ...rng import Noise, digest
from ...start import begin
from ...steer import mpc_flow
from ...step import Step, run
from ...transition import Transition, euler, renoise

PARTICLES = 4  # of the samplers that have them; each has the evaluations
Setting = Mapping[str, float | str]


@dataclass
class Meter:
    """What went through the network: rows forward, rows backward, and the seconds of both."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    began: float = 0.0


class _Enter(torch.autograd.Function):
    """The identity behind the network: its backward pass starts the clock. `setup_context` lets torch.func differentiate it."""

    @staticmethod
    def forward(v: Tensor, meter: Meter) -> Tensor:
        return v.view_as(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Meter], output: Tensor) -> None:
        ctx.meter = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.meter.backward += len(gradients[0])
        ctx.meter.began = time.perf_counter()
        return gradients[0], None


class _Leave(torch.autograd.Function):
    """The identity before the network: its backward pass stops the clock."""

    forward = _Enter.forward
    setup_context = _Enter.setup_context

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.meter.seconds += time.perf_counter() - ctx.meter.began
        return gradients[0], None


@dataclass(frozen=True, eq=False)
class Metered(Wrapped):
    """A flow whose network is counted and timed, whichever library calls it."""

    flow: Flow
    meter: Meter = field(default_factory=Meter)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        self.meter.forward += len(x)
        x = _Leave.apply(x, self.meter)
        began = time.perf_counter()
        v = self.flow.velocity(x, t)
        self.meter.seconds += time.perf_counter() - began
        return _Enter.apply(v, self.meter)


def estimate(flow: Flow, x: Tensor, ratio: float) -> Tensor:
    """E[clean | clean + ratio noise = x], what the other libraries call a denoiser.

    `Flow.as_denoiser` finds the time of any path; here it is written out, so that they are not charged for that.
    """
    if flow.path is not linear:
        raise ValueError(f"rivals: expected a prior on the linear path, got {flow.path}; wrap it: guide.on_path")
    t = torch.tensor(1 / (1 + ratio), dtype=torch.float64)
    return flow.ends(t * x, t).clean


class Problem(NamedTuple):
    """One picture's measurement, the evaluations that may be spent on it, and its random streams.

    Attributes:
        y: one row, pictures in [-1, 1]; build: makes its operator anew, for a library that wants to add to it.
    """

    flow: Metered
    y: Measurement
    evaluations: int
    noise: Callable[[], Noise]
    build: Callable[[], LinearOperator]

    def start(self) -> Tensor:
        """The state at t = 0, the same for both sides."""
        return self.flow.source(self.noise())

    @property
    def unit(self) -> float:
        """For steps of a given length, which are spread over the picture: 1 for a side of 128 pixels."""
        return math.sqrt(math.prod(self.flow.shape[-2:])) / 128

    def seed(self) -> int:
        """For what draws from torch's one stream."""
        noise = self.noise()
        return digest(noise.seeds[0], noise.keys[0])


Prepare = Callable[..., Callable[[], Tensor]]


class Contestant(NamedTuple):
    """A sampler.

    Attributes:
        prepare: (problem, **setting) -> what is timed: () -> picture in [-1, 1], `(1, c, h, w)`.
        trials: settings that `--tune` tries; the first is the documented or default one.
    """

    prepare: Prepare
    trials: tuple[Setting, ...]


class Rival(NamedTuple):
    """A sampler of another library and ours that it is compared with, by its name in `OURS`."""

    theirs: Contestant
    ours: str


def trials(default: Setting, values: Mapping[str, Sequence[float | str]]) -> tuple[Setting, ...]:
    """All combinations of the values, the default first."""
    grid = [dict(zip(values, of, strict=True)) for of in product(*values.values())]
    return (default, *(setting for setting in grid if setting != default))


def _own(problem: Problem, method: Callable[..., Iterator[Step]], start: float = 0.0, std: float = 1.0) -> Tensor:
    """The method's result. Evaluations are spent from `start` on; the noise is taken to be `std` times what it is."""
    times = torch.linspace(start, 1, problem.evaluations + 1, dtype=torch.float64)
    if start:
        times = torch.cat([times.new_zeros(1), times])
    noise = problem.noise()
    x = problem.flow.source(noise)
    y = replace(problem.y, std=problem.y.std * std)
    return problem.flow.decode(run(method(problem.flow, y, x, times, noise=noise)).x)


def _dps(problem: Problem, step: float, move: str) -> Callable[[], Tensor]:
    moves: dict[str, Transition] = {"euler": euler, "renoise": renoise}
    return partial(_own, problem, partial(dps, step=step * problem.unit, transition=moves[move]))


def _diffpir(problem: Problem, lam: float, zeta: float) -> Callable[[], Tensor]:
    return partial(_own, problem, partial(diffpir, lam=lam, zeta=zeta))


def _ot_ode(problem: Problem, gamma: Literal["one", "sqrt"], start: float) -> Callable[[], Tensor]:
    return partial(_own, problem, partial(ot_ode, gamma=gamma, start=start), start=start)


def _tmpd(
    problem: Problem, std: float, *, covariance: Literal["full", "diagonal"], iterations: int = 1
) -> Callable[[], Tensor]:
    return partial(_own, problem, partial(tmpd, covariance=covariance, iterations=iterations), std=std)


def _tds(problem: Problem, tempering: float, start: float) -> Callable[[], Tensor]:
    def solve() -> Tensor:
        noise = problem.noise().spawn(PARTICLES)
        times = torch.linspace(0, 1, problem.evaluations + 1, dtype=torch.float64)
        steps = tds(
            problem.flow, problem.y, problem.flow.source(noise), times,
            particles=PARTICLES, tempering=tempering, start=start, noise=noise,
        )  # fmt: skip
        last = run(steps)
        weights = last.info["log_w"].softmax(1).to(last.x).view(-1, 1, 1, 1)
        return (weights * problem.flow.decode(last.x)).sum(0, keepdim=True)

    return solve


def _hqs(problem: Problem, weight: float, steps: float) -> Callable[[], Tensor]:
    def solve() -> Tensor:
        x, times = begin(hqs, problem.flow, problem.y, min(int(steps), problem.evaluations))
        moves = hqs(problem.flow, problem.y, x, times, weight=weight, looks="upright")  # as theirs sees it
        return problem.flow.decode(run(moves).x)

    return solve


def _mpc_flow(problem: Problem, strength: float) -> Callable[[], Tensor]:
    method = partial(mpc_flow, strength=strength / problem.y.std**2, energy=flower, renoise=1.0)
    return partial(_own, problem, method)


# Six trials for every sampler of either side. The number of backward passes per step is that of its rival.
OURS: dict[str, Contestant] = {
    "dps": Contestant(
        _dps,
        (
            *trials({"step": 6.0, "move": "euler"}, {"step": (3.0, 6.0, 10.0), "move": ("euler",)}),
            *trials({"step": 15.0, "move": "renoise"}, {"step": (10.0, 15.0, 25.0), "move": ("renoise",)}),
        ),
    ),
    "diffpir": Contestant(_diffpir, trials({"lam": 1.0, "zeta": 1.0}, {"lam": (0.3, 1.0, 3.0), "zeta": (0.3, 1.0)})),
    "ot_ode": Contestant(
        _ot_ode, trials({"gamma": "sqrt", "start": 0.1}, {"gamma": ("sqrt", "one"), "start": (0.1, 0.2, 0.4)})
    ),
    "tmpd": Contestant(
        partial(_tmpd, covariance="full"), trials({"std": 1.0}, {"std": (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)})
    ),
    "tmpd, 3 iterations": Contestant(
        partial(_tmpd, covariance="full", iterations=3), trials({"std": 1.0}, {"std": (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)})
    ),
    "tmpd, diagonal": Contestant(
        partial(_tmpd, covariance="diagonal"), trials({"std": 1.0}, {"std": (1.0, 1.4, 2.0, 2.8, 4.0, 5.6)})
    ),
    "tds": Contestant(
        _tds, trials({"tempering": 1.0, "start": 0.1}, {"tempering": (0.1, 0.3, 1.0), "start": (0.1, 0.3)})
    ),
    "hqs": Contestant(_hqs, trials({"weight": 0.23, "steps": 8.0}, {"weight": (0.1, 0.23, 0.5), "steps": (8.0, 24.0)})),
    "mpc_flow": Contestant(_mpc_flow, trials({"strength": 2.0}, {"strength": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)})),
}
DEFAULT = "hqs"  # a row for reference: what one gets without choosing a method
