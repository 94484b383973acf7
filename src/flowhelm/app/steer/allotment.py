"""What a number of evaluations buys: steps, and particles (draws, rounds, chains), found by running the method on next to nothing.

The rule. A trajectory costs about 25 evaluations of the network (28 for pipelines), and as many particles, draws, rounds or chains
are taken as the budget affords. While that are fewer than 4, trajectories become shorter, down to 10 evaluations; while
not one is affordable, down to 4. Who gives the number of particles gets as many steps as the budget affords, at most 100; who gives
the steps gets as many particles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from torch import Tensor

from ... import inner
from ...affordable import affordable
from ...budget import Budget
from ...cards import budget_option, keeps_budget, takes_budget
from ...cost import Nothing
from ...flow import Flow
from ...rng import Noise
from ...solve import integrate
from ...step import Reward, Step
from ...transition import euler
from ..errors import BadInput
from ..options.signature import bind

LONG, SHORT, LEAST, MOST, FEW = 25, 10, 4, 100, 4
BUDGET = 200
CHAINS = "chains"


class Allotment(NamedTuple):
    """What is run for one picture.

    steps: of the grid; option: the one that the budget pays for (particles, draws, iterations), or chains, and `width`, its value;
    evaluations: what it is expected to cost at most; turns: the number of the last step; backward: of the evaluations those that are
    differentiated; rewards: pictures that are scored.
    """

    steps: int
    option: str
    width: int
    evaluations: int
    turns: int
    backward: int
    rewards: int


class Cost(NamedTuple):
    """Of one chain: evaluations, at most, steps that the method reports, and how often network and reward are differentiated and asked."""

    evaluations: int
    turns: int
    backward: int
    rewards: int


def cost(method: Callable[..., Any], values: Mapping[str, Any], flow: Flow, times: Tensor) -> Cost:
    """By counting, on a flow that costs nothing."""
    own = inspect.signature(method).parameters.get("inner")
    if own is not None and values.get("inner", own.default) is inner.auto:
        values = {**values, "inner": partial(inner.adam, iterations=inner.MOST)}  # which makes the most that `auto` may
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
        asked, reward = ledger.watch(empty, lambda image: image.flatten(1).mean(1), 1)
        steps = method(asked, reward, x, times, noise=noise, **values)
    turns = max((step.index for step in steps), default=0)
    spent = {kind: int(amount.sum()) for kind, amount in ledger.spent.items()}
    return Cost(spent["evaluations"], turns, ledger.count.backward * rows, spent.get("rewards", 0))


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
        return one._replace(**{name: times * getattr(one, name) for name in ("evaluations", "backward", "rewards")})

    def plain(flow: Flow, reward: Reward, x: Tensor, times: Tensor, *, noise: Noise) -> Iterator[Step]:
        return integrate(flow, x, times, transition=values.get("transition") or euler, noise=noise)

    @cache
    def length(steps: int) -> int:
        """Evaluations of one trajectory without any choice."""
        return cost(plain, {}, flow, flow.times(steps)).evaluations

    def longest(width: int, limit: int, least: int, most: int) -> int:
        return affordable(lambda s: priced(width, s).evaluations, limit, least=least, most=most)

    top = affordable(length, long, most=long) or 1
    if budget is None:
        found, width = steps or top, typed or 1
        return Allotment(found, name, width, *priced(width, found)), None
    least = min(affordable(length, LEAST - 1, most=top) + 1, top)
    need = typed if typed is not None and not bounded else 1  # the others end by themselves
    if steps is not None:
        least, found = steps, longest(need, budget, steps, steps)
        if priced(1, steps).evaluations <= budget and not found:
            raise BadInput(
                f"--budget {budget}: {who} with --{name} {typed} and {steps} steps takes {priced(need, steps).evaluations} "
                "evaluations; give a larger --budget, or less of the two"
            )
        need, other = 1, ", or fewer --steps"
    elif typed is not None:
        found = longest(need, budget, least, top if bounded else max(top, MOST))
        other = f", or fewer {name}" if need > 1 else ""
    else:
        short = min(affordable(length, SHORT - 1, least=least, most=top) + 1, top)
        found = longest(FEW, budget, short, top) or longest(1, budget, least, short)
        other = ""
    if not found:
        some, needed = f" with --{name} {typed}" if need > 1 else "", priced(need, least).evaluations
        raise BadInput(
            f"--budget {budget}: one trajectory of {who}{some} takes {needed} evaluations ({least} steps); "
            f"give --budget {needed} or more{other}"
        )
    width = typed or affordable(lambda w: priced(w, found).evaluations, budget, most=budget)
    return Allotment(found, name, width, *priced(width, found)), budget
