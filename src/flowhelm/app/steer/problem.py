"""What a steered run is made of: everything that the settings name, opened; what the budget buys; the reward, tried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import grids, steer, transition
from ...cards import needs_gradient
from ...flow import Flow, Wrapped
from ...guide import on_path
from ...guide.counted import Count
from ...path import VP, Path, linear, trig
from ...step import Reward, Step
from ..draw.conditions import conditioned, guidance_of
from ..models import opening as models
from ..models.batches import batches
from ..models.device import exactly
from ..models.request import size_of
from ..options import own
from ..options.signature import bind, complete, pick
from ..run import Run
from . import allotment
from . import rewards as scores
from .builders import Subject
from .request import SteerSettings
from .scored import Saved, check_reward


class Over(Exception):
    """The budget is spent."""


@dataclass(frozen=True, eq=False)
class Limited(Wrapped):
    """A flow that works on at most `size` rows at a time, and ends a run rather than exceed its budget.

    count: of the ledger that watches this flow, which counts a call before it is made here.
    """

    flow: Flow
    size: int
    count: Count
    limit: float

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        if self.count.rows > self.limit:
            raise Over
        if len(x) <= self.size:
            return self.flow.velocity(x, t)
        indices = torch.arange(len(x)).split(self.size)
        when = [t if t.ndim == 0 else t[index.to(t.device)] for index in indices]
        parts = zip(indices, x.split(self.size), when, strict=True)
        return torch.cat([self.flow.rows(index, len(x)).velocity(rows, t) for index, rows, t in parts])

    def decode(self, clean: Tensor) -> Tensor:
        return torch.cat([self.flow.decode(rows) for rows in clean.split(self.size)])


class Rewards(NamedTuple):
    """What is optimised, its terms alone if that is not the same, and what is only looked at."""

    total: Saved
    parts: Mapping[str, Reward]
    beside: Mapping[str, Reward]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is run."""

    flow: Any
    method: Callable[..., Iterator[Step]]
    options: Mapping[str, Any]  # values of the method's options
    terms: Sequence[scores.Term]
    beside: Sequence[scores.Term]
    rewards: Callable[[str | None], Rewards]  # for pictures of a class
    rows: int
    chains: int
    limit: float  # evaluations of one chain
    batch: int
    turns: int
    costs: allotment.Allotment  # of one picture


def prepared(settings: SteerSettings) -> Run[tuple[Problem, SteerSettings, str]]:
    """Opens all, allots the budget, tries the reward out; the settings completed, and a line that says what is run."""
    exactly(settings.threads)
    flow: Any = yield from _opened(settings)
    labels: Sequence[str | None] = settings.classes or [None]
    for label in labels:  # what is wrong with a condition is said before the long work
        bound(flow, settings, label)
    method = pick("method", settings.method, steer.ALL)
    given = settings.method_options.model_dump(exclude_unset=True)
    pipeline = models.is_pipeline(settings.prior)
    found, budget = allotment.allot(
        method, given, along(flow, settings), budget=settings.budget, steps=settings.steps, chains=settings.chains,
        long=models.STEPS if pipeline else allotment.LONG, edit=_begun,
    )  # fmt: skip
    alone = found.option == allotment.CHAINS
    given = given if alone else {**given, found.option: found.width}
    chains = found.width if alone else settings.chains or 1
    whole = settings.changed(
        budget=budget, steps=found.steps, chains=chains, method_options=complete(method, given),
        times=along(flow, settings).times(found.steps).tolist(),
    )  # fmt: skip
    guided = getattr(bound(flow, settings, labels[0]), "guidance", None) is not None
    batch = settings.batch or (1 if pipeline else batches(flow, 10**9, guided))
    terms = [scores.term(text) for text in settings.reward]
    beside = [scores.term(text, "held-out") for text in settings.held_out]
    values, known = bind(method, given), tuple(getattr(flow, "about", {}).get("classes", ()))
    subject = Subject(settings.prompt, None, known, settings.reward_device)
    made = lru_cache(1)(lambda label: _rewards(terms, beside, subject._replace(label=label)))  # models are loaded once
    problem = Problem(
        flow, method, _begun(values), terms, beside, made, chains * values.get("particles", 1), chains,
        math.inf if budget is None else budget // chains, batch, found.turns, found,
    )  # fmt: skip
    _tried(problem, settings)
    spent = f"{found.evaluations}" + (f" of {budget}" if budget is not None else "")
    width = f"{chains} chain" + "s" * (chains > 1) if alone else f"{found.width} {found.option}"
    if not alone and chains > 1:
        width += f" in each of {chains} chains"
    line = f"{own.short(settings.method)}: {found.steps} steps, {width}; at most {spent} evaluations per picture"
    return problem, whole, line


def _opened(settings: SteerSettings) -> Run[Any]:
    if not models.is_pipeline(settings.prior):
        models.check_draws(settings.prior)
        return models.bundled_prior(settings, settings.device)
    size = size_of(settings.size)
    # the least that it takes: one particle, and a reward of no memory
    options = settings.method_options.model_dump(exclude_unset=True, exclude={"particles"})
    work = models.Work(settings.method, size, settings.steps or models.STEPS, options)
    return (yield from models.opened(settings, size=size, work=work))


def bound(flow: Any, settings: SteerSettings, label: str | None) -> Any:
    """The prior, told what the pictures show; one row, which all particles share."""
    rule = guidance_of(settings)
    if models.is_pipeline(settings.prior):
        return models.told(flow, settings, guidance=rule if settings.guidance else None)
    return conditioned(flow, [label], settings.prompt, settings.numbers, rule)


PATHS: Mapping[str, Path] = {"linear": linear, "trig": trig, "vp": VP()}
GRIDS: Mapping[str, Callable[[int], Tensor]] = {"uniform": grids.uniform, "arc": grids.arc}


@dataclass(frozen=True, eq=False)
class Timed(Wrapped):
    """A flow with another grid."""

    flow: Flow
    grid: Callable[[int], Tensor]

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.flow.velocity(x, t)

    def times(self, steps: int) -> Tensor:
        return self.grid(steps)


def along(flow: Flow, settings: SteerSettings) -> Flow:
    """The flow along the path and with the grid that the settings name."""
    flow = flow if settings.path is None else on_path(flow, PATHS[settings.path])
    return flow if settings.grid is None else Timed(flow, GRIDS[settings.grid])


def _rewards(terms: Sequence[scores.Term], beside: Sequence[scores.Term], subject: Subject) -> Rewards:
    made = [(each, each.make(subject)) for each in terms]
    shared = {each.label: reward for each, reward in made}
    total = Saved(scores.summed([(each.weight, reward) for each, reward in made]))
    alone = len(terms) == 1 and terms[0].weight == 1
    parts = {} if alone else {each.label: Saved(reward) for each, reward in made}
    others = {each.text: [(each.weight, shared.get(each.label) or each.make(subject))] for each in beside}
    return Rewards(total, parts, {name: Saved(scores.summed(pairs)) for name, pairs in others.items()})


def _tried(problem: Problem, settings: SteerSettings) -> None:
    """Scores two pictures, so that what is wrong with a reward is said at once."""
    flow, method = problem.flow, problem.method
    if flow.pixels:
        pixels = flow.shape
    elif hasattr(flow, "size"):
        pixels = (3, *flow.size)
    else:  # code of your own
        with torch.no_grad():
            pixels = tuple(flow.decode(torch.zeros(1, *flow.shape, device=settings.device)).shape[1:])
    follows = needs_gradient(method) or problem.options.get("proposal", "prior") != "prior"
    reward, _, others = problem.rewards(next(iter(settings.classes), None))
    names = " + ".join(each.label for each in problem.terms)
    free = [each.__name__ for each in steer.ALL if not needs_gradient(each)]
    remedy = f"take {', '.join(free[:-1])} or {free[-1]}, without a --proposal"
    check_reward(
        [reward, *others.values()], pixels, settings.device, f"{method.__name__} follows the gradient of the reward, and {names}" * follows,
        remedy,
    )  # fmt: skip


def _begun(values: dict[str, Any]) -> dict[str, Any]:
    """Langevin moves have an infinite diffusion at t = 0: the first one is ancestral."""

    def begun(first: Callable[..., Any], later: Callable[..., Any]) -> Callable[..., Any]:
        def move(flow: Flow, x: Tensor, s: Tensor, *rest: Any) -> Any:
            return (first if flow.path(s.double()).alpha == 0 else later)(flow, x, s, *rest)

        return move

    infinite: dict[Any, Callable[..., Any]] = {
        transition.langevin: transition.ancestral,
        transition.langevin_moments: transition.ancestral_moments,
    }
    firsts = {name: infinite.get(getattr(move, "func", move)) for name, move in values.items() if callable(move)}
    return values | {name: begun(first, values[name]) for name, first in firsts.items() if first is not None}
