"""What a signature excludes is refused at the first `next`, before anything is computed. Made from the signatures."""

import inspect
import math
from functools import partial
from typing import Literal, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from flowhelm import Flow, Function, Measurement, Noise, entry, inner, restore, steer
from flowhelm.budget import Budget
from flowhelm.control import Energy, flux2
from flowhelm.path import linear
from flowhelm.transition import Moments, Transition, glass, renoise_moments

WRONG_PARTS = {  # told by identity
    inner.Inner: partial(inner.adam, iterations=0),
    Energy: partial(flux2, rho=-1.0),
    Transition: partial(glass, inner=0),
    Moments: partial(renoise_moments, amount=1.5),
}


def outside(hint):
    """Values that a type excludes: another word or kind, NaN, a number just beyond a bound, wrong options of a function."""
    members = list(entry.members(hint))
    for kind, bounds in members:
        if get_origin(kind) is Literal:
            yield "nonsense"
            yield from [1] if len(members) == 1 else []
        if kind is float:
            yield math.nan
        if bounds:
            yield "often"
        for bound in bounds:
            step = 1 if kind is int else 1e-3
            beyond = {Ge: -step, Gt: 0, Le: step, Lt: 0}[type(bound)]
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
        (steer.fk, {"potential": "maximum", "proposal": "grad", "every": 0, "tempering": "DAS"}),
        (steer.d_flow, {"regulariser": "chi2"}),
        (steer.mpc_flow, {"unit": "displacment", "horizon": 0, "strength": 0.0}),
        (steer.path_search, {"draws": 0}),
        (steer.flow_chef, {"inner": 0}),
        (steer.oc_flow, {"rate": 0.6}),
        (steer.noise_search, {"draws": 0, "radius": 0.0}),
        (restore.flair, {"data": "proxx", "weight": 0.0, "rate": 0.0, "inner": 0, "carry": 1.5, "tolerance": 0.0}),
        (restore.ot_ode, {"gamma": "ones", "start": 1.0}),
        (restore.tmpd, {"covariance": "ful", "iterations": -1}),
        (restore.stsl, {"probe": "hutch", "repeats": 0}),
        (restore.pnp_flow, {"draws": 0, "decay": -1}),
        (restore.flower, {"gamma": 5}),
        (restore.dps, {"step": -1}),
        (restore.flow_dps, {"inner": 0}),
        (restore.daps, {"variance": 0.0, "ode": 0}),
        (restore.diffpir, {"lam": 0.0, "zeta": 1.2}),
        (restore.rebridge, {"rho": 0.0, "lam": -1.0, "kappa": -1.0}),
        (restore.sitcom, {"anchor": -0.1, "inner": -1}),
        (restore.flow_priors, {"inner": 0}),
        (restore.afdps, {"anneal": -1.0, "particles": 0}),
        (restore.tds, {"tempering": -1.0, "particles": 0}),
        (restore.fig, {"inner": 0, "mix": 1.1}),
    ],
)
def test_ranges_that_papers_and_formulas_set(method, options):
    """These are in the signatures, so that the law above holds for them."""
    for name, value in options.items():
        assert entry.refusal(entry.parameter_types(method)[name], value)


@pytest.mark.parametrize("method", [*steer.ALL, *restore.ALL], ids=lambda method: method.__name__)
def test_defaults_are_inside(method):
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is not parameter.empty:
            assert not entry.refusal(entry.parameter_types(method)[name], parameter.default)
