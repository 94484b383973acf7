"""What a signature excludes is refused at the first `next`, before anything is computed. Made from the signatures."""

import inspect
import math
from functools import partial
from typing import Literal, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from flowhelm import entry, inner, restore, steer
from flowhelm.budget import Budget
from flowhelm.control import Energy, flux2
from flowhelm.flow import Flow
from flowhelm.measure import Function, Measurement
from flowhelm.path import linear
from flowhelm.rng import Noise
from flowhelm.transition import Moments, Transition, glass, renoise_moments

WRONG_PARTS = {  # told by identity
    inner.Inner: partial(inner.adam, iterations=0),
    Energy: partial(flux2, rho=-1.0),
    Transition: partial(glass, inner=0),
    Moments: partial(renoise_moments, amount=1.5),
}


def outside(hint):
    """Values that a type excludes: an unknown word, NaN, a number beyond each bound, wrong options of a function."""
    for kind, bounds in entry.members(hint):
        if get_origin(kind) is Literal:
            yield "nonsense"
        if kind is float:
            yield math.nan
        for bound in bounds:
            beyond = {Ge: -1, Gt: 0, Le: 1, Lt: 0}[type(bound)]
            yield getattr(bound, type(bound).__name__.lower()) + beyond
        yield from (wrong for alias, wrong in WRONG_PARTS.items() if alias is kind)


CASES = [
    pytest.param(method, name, value, id=f"{method.__name__}-{name}-{getattr(value, 'keywords', value)}")
    for method in (*steer.ALL, *restore.ALL)
    for name, parameter in inspect.signature(method).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
    for value in outside(entry.parameter_types(method)[name])
]


def untouched(*_):
    raise AssertionError("it was computed with before the options were checked")


class Untouched(Flow):
    path, shape, pixels = linear, (1, 4, 4), False
    velocity = encode = decode = source = rows = untouched


@pytest.mark.parametrize(("method", "name", "value"), CASES)
def test_what_a_signature_excludes_is_refused(method, name, value):
    """Nothing is asked of the flow, the reward, the noise or the budget before."""
    operator, noise, budget = Function(untouched), Noise(0, 2), Budget()
    before = noise.state()
    more = {"budget": budget} if "budget" in inspect.signature(method).parameters else {}
    y = Measurement(torch.zeros(2, 3), operator, 0.1)
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    steps = method(Untouched(), y, torch.zeros(2, 1, 4, 4), times, noise=noise, **{name: value}, **more)
    with pytest.raises(ValueError, match=f"^{method.__name__}: expected {name}(| |'s)"):
        next(steps)
    assert torch.equal(noise.state(), before)
    assert not budget.spent


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (steer.fk, {"potential": "maximum"}),
        (steer.fk, {"proposal": "grad"}),
        (steer.fk, {"every": 0}),
        (steer.fk, {"tempering": "DAS"}),
        (steer.d_flow, {"regulariser": "chi2"}),
        (steer.mpc_flow, {"unit": "displacment"}),
        (steer.mpc_flow, {"horizon": 0}),
        (steer.mpc_flow, {"strength": 0.0}),
        (steer.path_search, {"draws": 0}),
        (steer.noise_search, {"draws": 0}),
        (steer.flow_chef, {"inner": 0}),
        (steer.oc_flow, {"rate": 0.6}),
        (steer.noise_search, {"radius": 0.0}),
    ],
)
def test_ranges_that_papers_and_formulas_set(method, options):
    """These are in the signatures, so that the law above holds for them."""
    ((name, value),) = options.items()
    assert entry.refusal(entry.parameter_types(method)[name], value)


@pytest.mark.parametrize("method", [*steer.ALL, *restore.ALL], ids=lambda method: method.__name__)
def test_defaults_are_inside(method):
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is not parameter.empty:
            assert not entry.refusal(entry.parameter_types(method)[name], parameter.default)
