"""What a number of evaluations buys: steps, and particles (draws, rounds, chains), found by running the method on next to nothing.

The rule. A trajectory costs about 25 evaluations of the network (28 for pipelines), and as many particles, draws, rounds or chains
are taken as the budget affords. While that are fewer than 4, trajectories become shorter, down to 10 evaluations; while
not one is affordable, down to 4. Who gives the number of particles gets as many steps as the budget affords, at most 100; who gives
the steps gets as many particles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from ...budget import Budget
from ...cards import budget_option, keeps_budget, takes_budget
from ...flow import Flow, Pixels
from ...path import Path
from ...rng import Noise
from ...solve import integrate
from ...transition import euler
from ..errors import BadInput
from ..options.signature import bind

LONG, SHORT, LEAST, MOST, FEW = 25, 10, 4, 100, 4
BUDGET = 200
CHAINS = "chains"


class Allotment(NamedTuple):
    """What is run for one picture.

    steps: of the grid; option: the one that the budget pays for (particles, draws, iterations), or chains, and `width`, its value;
    evaluations: what it is expected to cost at most; turns: steps that the method reports.
    """

    steps: int
    option: str
    width: int
    evaluations: int
    turns: int


class Nothing(Pixels):
    """A flow on some path that costs nothing and means nothing."""

    shape = (1, 2, 2)

    def __init__(self, path: Path):
        self.path = path

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.tanh() / 2  # not linear: what is recomputed in a backward pass must be, here too


class Cost(NamedTuple):
    evaluations: int
    turns: int


def cost(method: Callable[..., Any], values: Mapping[str, Any], flow: Flow, times: Tensor) -> Cost:
    """Evaluations of one chain, by counting: at most, for methods whose cost depends on the reward."""
    ledger, rows = Budget(), values.get("particles", 1)
    calls = 0

    def falling(image: Tensor) -> Tensor:  # never better than before, so that every draw is made
        nonlocal calls
        calls += 1
        return image.flatten(1).mean(1) * 1e-9 - calls

    empty, noise = Nothing(flow.path), Noise(0, rows)
    x = empty.source(noise)
    if takes_budget(method):
        steps = method(empty, falling, x, times, noise=noise, budget=ledger, **values)
    else:
        asked, reward = ledger.watch(empty, _mean, 1)
        steps = method(asked, reward, x, times, noise=noise, **values)
    turns = sum(1 for _ in steps)
    return Cost(int(ledger.spent["evaluations"].sum()), turns)


def _mean(image: Tensor) -> Tensor:
    return image.flatten(1).mean(1)


def allot(
    method: Callable[..., Any],
    given: Mapping[str, Any],
    flow: Flow,
    *,
    budget: int | None,
    steps: int | None,
    chains: int | None,
    long: int = LONG,
    edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values,
) -> tuple[Allotment, int | None]:
    """Steps and width of a method for a budget, and that budget: None if there is none, since the width was given alone.

    Args:
        given: options that were typed.
        flow: whose path and grid.
        edit: of the options' values, before the method is called.

    Raises:
        BadInput: what is wrong with the options, or a budget that does not buy one trajectory, or not what was given.
    """
    name, who, bounded = budget_option(method) or CHAINS, method.__name__, keeps_budget(method)
    typed = int(bind(method, {name: given[name]})[name]) if name in given else chains if name == CHAINS else None
    if budget is None and typed is None:
        budget = BUDGET
    parts = (chains or 1) if name != CHAINS else 1
    values = edit(bind(method, given))

    @cache
    def single(width: int, steps: int) -> Cost:
        more = {} if name == CHAINS else {name: width}
        return cost(method, values | more, flow, flow.times(steps))

    def priced(width: int, steps: int) -> Cost:
        each, times = (1, width) if name == CHAINS else (width, parts)  # every chain costs the same
        one = single(each, steps)
        return one._replace(evaluations=times * one.evaluations)

    @cache
    def length(steps: int) -> int:
        """Evaluations of one trajectory without any choice."""
        ledger = Budget()
        watched, _ = ledger.watch(Nothing(flow.path), _mean, 1)
        noise = Noise(0, 1)
        move = values.get("transition") or euler
        for _ in integrate(watched, watched.source(noise), flow.times(steps), transition=move, noise=noise):
            pass
        return int(ledger.spent["evaluations"].sum())

    def widest(steps: int) -> int:
        """0 if not even one fits."""
        one = priced(1, steps).evaluations
        if budget is None or one > budget:
            return int(budget is None)
        found = 1 + (budget - one) // max(priced(2, steps).evaluations - one, 1)
        while found > 1 and priced(found, steps).evaluations > budget:
            found -= 1
        return found

    def found_for(steps: int, width: int) -> Allotment:
        return Allotment(steps, name, width, *priced(width, steps))

    top = _most(lambda s: length(s) <= long, 1, long) or 1
    if budget is None:
        return found_for(steps or top, typed or 1), None
    limit = budget
    least = _most(lambda s: length(s) < LEAST, 1, top) + 1
    least = min(least, top)
    need = typed if typed is not None and not bounded else 1  # the others end by themselves
    if steps is not None:
        if priced(1, steps).evaluations > limit:
            raise BadInput(_poor(limit, who, priced(1, steps).evaluations, steps, "fewer --steps"))
        if priced(need, steps).evaluations > limit:
            raise BadInput(
                f"--budget {limit}: {who} with --{name} {typed} and {steps} steps takes {priced(need, steps).evaluations} "
                "evaluations; give a larger --budget, or less of the two"
            )
        return found_for(steps, typed or widest(steps)), limit
    if typed is not None:
        high = top if bounded else max(top, MOST)
        found = _most(lambda s: priced(need, s).evaluations <= limit, least, high)
    else:
        short = min(_most(lambda s: length(s) < SHORT, least, top) + 1, top)
        found = _most(lambda s: widest(s) >= FEW, short, top) or _most(lambda s: widest(s) > 0, least, short)
    if not found:
        some, other = (f" with --{name} {typed}", f"fewer {name}") if need > 1 else ("", "")
        raise BadInput(_poor(limit, who + some, priced(need, least).evaluations, least, other))
    return found_for(found, typed or widest(found)), limit


def _most(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest of low ... high that fits, if all below one that fits do; 0 if none does."""
    if high < low or not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _poor(budget: int, who: str, needed: int, steps: int, other: str) -> str:
    or_else = f", or {other}" if other else ""
    return (
        f"--budget {budget}: one trajectory of {who} takes {needed} evaluations ({steps} steps); "
        f"give --budget {needed} or more{or_else}"
    )
