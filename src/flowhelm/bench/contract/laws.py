"""The laws of a method. Each is a function that says what it found, or raises `Breach`: what is wrong, and how to mend it.

The tests of the package hold every method to them, and `flowhelm check my.py:mine` one of your own.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ... import cards
from ...flow import Flow
from ...guide import counted
from ...guide.counted import Count
from ...measure import Measurement
from ...rng import Noise
from ...solve import integrate
from ...start import begin
from ...step import Step, run
from .world import STEPS

Method = Callable[..., Iterator[Step]]


class Breach(AssertionError):
    """A law that does not hold."""


def _begun(method: Method, flow: Flow, y: Measurement, noise: Noise, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    return begin(method, flow, y, steps, noise)


def _steps(method: Method, flow: Flow, y: Measurement, seed: int = 0) -> Iterator[Step]:
    x, times = _begun(method, flow, y, Noise(1, len(y.y)))
    # whatever needs a gradient outside, a method gives none back
    return method(flow, y, x.clone().requires_grad_(), times, noise=Noise(seed, len(x)))


class _Whole(NamedTuple):
    """A run from its start to its end, and what it cost."""

    x: Tensor
    times: Tensor
    end: Tensor
    spent: Count


@cache
def _whole(method: Method, flow: Flow, y: Measurement) -> _Whole:
    """The run that the laws compare with: made once for all of them."""
    watched = counted(flow)
    x, times = _begun(method, watched, y, Noise(1, len(y.y)))
    return _Whole(x, times, run(method(watched, y, x.clone(), times, noise=Noise(0, len(x)))).x, watched.count)


def contract(method: Method, flow: Flow, y: Measurement) -> str:
    """It yields Steps: in order, with times of the grid, states of the prior's shape, finite and detached."""
    return f"{len(steps(method, flow, y))} steps, each with its time, its state and its estimate"


def steps(method: Method, flow: Flow, y: Measurement) -> list[Step]:
    """The steps that it yields, each checked."""
    _, times = _begun(method, flow, y, Noise(1, len(y.y)))
    done: list[Step] = []
    made = _steps(method, flow, y)
    if not isinstance(made, Iterator):
        raise Breach(f"it returns {type(made).__name__}; write it as a generator: yield Step(...) at each step")
    with torch.enable_grad():
        for step in made:
            if not torch.is_grad_enabled():
                raise Breach(
                    "it turns gradients off for whoever reads its steps; write @torch.no_grad() above def, not a with around yield"
                )
            if not isinstance(step, Step):
                raise Breach(
                    f"it yields {type(step).__name__}; yield Step(index, total, t, x, clean), which flowhelm has under this name"
                )
            done.append(step)
            _check(step, len(done), done[0].total, times, flow, len(y.y))
    if not done:
        raise Breach("it yields nothing; yield a Step for each pair of times, for s, t in pairwise(times)")
    if done[-1].index != done[-1].total:
        raise Breach(
            f"it ends at step {done[-1].index} and says that there are {done[-1].total}; let total be the number of steps it makes"
        )
    return done


def _check(step: Step, number: int, total: int, times: Tensor, flow: Flow, rows: int) -> None:
    if (step.index, step.total) != (number, total):
        raise Breach(
            f"step {number} says that it is {step.index} of {step.total}; count from 1: enumerate(pairwise(times), 1), "
            "and give len(times) - 1 as total"
        )
    if not isinstance(step.t, Tensor) or step.t.dtype != torch.float64 or step.t.ndim:
        raise Breach(f"its t is {step.t!r}; give the entry of times as it is, a float64 tensor without dimensions")
    # the time of the state; that of the last evaluation where the state is a clean estimate; the end of a trajectory
    last = len(times) - 1
    allowed = times[[min(step.index, last), min(step.index - 1, last), last]]
    if step.t not in allowed:
        raise Breach(
            f"step {number} has t = {float(step.t):.3g}, which is not the time of its state; give times[{number}]"
        )
    for name, state in (("x", step.x), ("clean", step.clean)):
        who = f"{name} of step {number}"
        if not isinstance(state, Tensor) or state.ndim < 1 or state.shape[1:] != flow.shape or len(state) % rows:
            got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise Breach(
                f"{who} is {got}; both are states of the prior, ({rows}, {', '.join(map(str, flow.shape))}) here, not decoded pictures"
            )
        if state.dtype != torch.float32:
            raise Breach(
                f"{who} is {state.dtype}; stay in the type of x, and turn times into it by float(t) or t.to(x)"
            )
        if not state.isfinite().all():
            raise Breach(f"{who} is not finite; look for a division by t or 1 - t, which are 0 at the ends")
        if state.requires_grad:
            raise Breach(f"{who} carries a gradient; write @torch.no_grad() above def, or yield it detached")
    for name, value in step.info.items():
        if not isinstance(value, Tensor) or value.requires_grad or value.ndim < 1 or len(value) % rows:
            raise Breach(f"info[{name!r}] of step {number} should be a detached tensor with a row for each of {rows}")


def null(method: Method, flow: Flow, y: Measurement) -> str:
    """The same seed gives the same result, with gradients on or off, and nothing is written to.

    Not to the start, the measurement, or the random numbers of torch; and gradients that are off stay off between two steps.
    """
    expected = _whole(method, flow, y)
    x, measured, state, step = expected.x.clone(), y.y.clone(), torch.random.get_rng_state(), None
    with torch.no_grad():
        for step in method(flow, y, x, expected.times, noise=Noise(0, len(x))):  # noqa: B007
            if torch.is_grad_enabled():
                raise Breach(
                    "it turns gradients on for whoever reads its steps; write @torch.no_grad() above def, and with torch.enable_grad() "
                    "around what needs them, never around yield"
                )
    if not torch.equal(x, expected.x):
        raise Breach("it writes into the state it is given; make a new tensor, x = x + ..., instead of x += ...")
    if not torch.equal(y.y, measured):
        raise Breach("it writes into the measurement; make a new tensor instead of changing y.y")
    if not torch.equal(torch.random.get_rng_state(), state):
        raise Breach(
            "it draws from torch's own random numbers; draw noise(x), which gives each row a stream of its own"
        )
    if step is None or not torch.equal(step.x, expected.end):
        raise Breach("the same seed gives two results; draw from noise only, and keep nothing between two calls")
    return "a seed is a result, and what it is given stays as it was"


def fit(method: Method, flow: Flow, y: Measurement, share: float = 1.0) -> str:
    """Every measurement is fitted better than by a draw of the prior; together they have less than `share` of its misfit."""
    x, _, restored, _ = _whole(method, flow, y)
    free = run(integrate(flow, x, flow.times(STEPS))).x
    apart, near = (y.misfit(flow.decode(each)) for each in (free, restored))
    before, after = float(apart.mean()), float(near.mean())
    count = float(y.count(len(y.y))[0])
    ratio = lambda misfit: math.sqrt(2 * misfit / count) / y.std  # noqa: E731
    if not (near < apart).all() or not after < share * before:
        raise Breach(
            f"its misfit is {ratio(after):.2f} times the noise, that of a draw of the prior {ratio(before):.2f}; look at the sign of the "
            "step, and at units of std"
        )
    return f"the misfit falls from {ratio(before):.1f} to {ratio(after):.1f} times the noise"


def rows(method: Method, flow: Flow, y: Measurement, tolerance: float = 1e-5) -> str:
    """A row does not see its neighbours: alone it becomes what it becomes among others."""
    x, times, together, _ = _whole(method, flow, y)
    i = len(x) // 2  # the one in the middle, which has neighbours on both sides
    own = Measurement(y.y[i : i + 1], y.operator, y.std)
    alone = run(method(flow, own, x[i : i + 1].clone(), times, noise=Noise(0, [i]))).x
    apart = float((alone - together[i : i + 1]).abs().max() / together.abs().max().clamp(min=1.0))
    if not apart <= tolerance:
        raise Breach(
            f"row {i} of {len(x)} is {apart:.1e} away from what it is alone; take norms, sums and step lengths of each row, "
            "not of the batch, and draw noise(x)"
        )
    return "a row alone is what it is among others"


def resume(method: Method, flow: Flow, y: Measurement, index: int = STEPS // 2) -> str:
    """From a step, its noise and what its info carries a run goes on to the same result, to the bit."""
    x, times, expected, _ = _whole(method, flow, y)
    noise, last = Noise(0, len(x)), None
    for last in method(flow, y, x.clone(), times, noise=noise):
        if last.index == index:
            break
    if last is None or (last.t == times[-1] and last.index < last.total):
        return "nothing to resume: it improves a whole trajectory, again and again"
    state = Noise(9, len(x)).restore(noise.state())
    kept = cards.resumed(method, cards.carried(method, last.info))
    again = run(method(flow, y, last.x, times[index:], noise=state, **kept)).x
    if not torch.equal(again, expected):
        apart = float((again - expected).abs().max())
        raise Breach(
            f"resumed after step {index} it ends {apart:.1e} elsewhere; let a step depend on x and times alone (not on its number), or "
            "yield what it needs in info and take it back by an option `carried: Mapping[str, Tensor] | None = None`"
        )
    return f"resumed after step {index} it ends at the same numbers"


def cost(method: Method, flow: Flow, y: Measurement) -> str:
    """It costs what its card says: `Cost  1 evaluation per step, forward only`."""
    x, _, _, count = _whole(method, flow, y)
    each, back = count.rows / len(x) / STEPS, count.backward / STEPS
    found = f"{each:.3g} evaluation{'s' * (each != 1)} per step, " + (
        f"{back:.3g} backward{'s' * (back != 1)} through the network" if back else "forward only"
    )
    said = cards.field(method, "Cost")
    if not said:
        raise Note(f"{found}; say so in its docstring: Cost    {found}")
    expected = _expected(method, said)
    if expected is not None and abs(expected - each) > 1e-9:
        raise Breach(f"its card says {expected:g} per step, and it makes {found}; correct the card, or the method")
    if "forward only" in said and back:
        raise Breach(
            f"its card says forward only, and it makes {found}; correct the card, or detach what is differentiated"
        )
    return found


class Note(Exception):
    """Nothing is wrong, but something could be said."""


def _expected(method: Method, said: str) -> float | None:
    """Evaluations per step, where the card begins with a plain number or an option: `draws` evaluations per step."""
    found = re.match(
        r"(?:(\d+)|`(\w+)`) evaluations? (?:and \d+ backwards? through the network )?per step(?! after)", said
    )
    if not found:
        return None
    if found[1]:
        return float(found[1])
    value = getattr(method, "keywords", {}).get(found[2])
    if value is None:
        parameter = inspect.signature(method).parameters.get(found[2])
        value = None if parameter is None else parameter.default
    return float(value) if isinstance(value, int | float) else None


def latent(method: Method, flow: Flow, y: Measurement) -> str:
    """On a prior with a decoder it either works, or refuses in one sentence before the first step.

    Args:
        flow: such a prior.
    """
    x, times = _begun(method, flow, y, Noise(1, len(y.y)))
    try:
        last = run(method(flow, y, x, times, noise=Noise(0, len(x))))
    except ValueError as error:
        return f"it refuses a prior with a decoder ({' '.join(str(error).split())[:80]})"
    except Exception as error:  # of any method and any library below it
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Breach(
            f"on a prior with a decoder it raises {type(error).__name__} ({what[:80]}); measure flow.decode(clean), or refuse at the first "
            'step: if not flow.pixels: raise ValueError("NAME: expected a prior over pixels")'
        ) from error
    if not flow.decode(last.x).isfinite().all():
        raise Breach("on a prior with a decoder its result is not finite; measure flow.decode(clean), not the state")
    return "works with a decoder, too"


ALL: tuple[Callable[..., str], ...] = (contract, null, fit, cost, resume, rows)
"""In the order in which they are checked; `latent` takes another prior."""
