"""What an option may be: every word and every range of a restoration method refuses its outside at the first `next`."""

import inspect
import math
from typing import get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt

from flowhelm import restore
from flowhelm.entry import members, parameter_types


def refused(hint):
    """Values next to what a type allows."""
    for kind, bounds in members(hint):
        for bound in bounds:
            if isinstance(bound, Ge):
                yield bound.ge - (1 if kind is int else 1e-3)
            if isinstance(bound, Le):
                yield bound.le + (1 if kind is int else 1e-3)
            if isinstance(bound, Gt):
                yield bound.gt
            if isinstance(bound, Lt):
                yield bound.lt
        if bounds:
            yield math.nan
            yield "often"
        if isinstance(word := next(iter(get_args(kind)), None), str):
            yield f"{word}s"
            yield 1


def wrong(method):
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield from ((name, value) for value in refused(parameter_types(method)[name]))


def begun(method, name, value):
    given = {"noise": None} | {name: value}  # it is refused before anything else is looked at
    return next(method(None, None, None, None, **given))


@pytest.mark.parametrize("method", restore.ALL, ids=lambda method: method.__name__)
def test_ranges_refuse_what_is_outside(method):
    cases = list(wrong(method))
    assert cases
    for name, value in cases:
        with pytest.raises(ValueError, match=rf"^{method.__name__}: expected {name} .*, got "):
            begun(method, name, value)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (restore.flair, "data", "proxx"),
        (restore.ot_ode, "gamma", "ones"),
        (restore.ot_ode, "start", 1.0),
        (restore.tmpd, "covariance", "ful"),
        (restore.tmpd, "iterations", -1),
        (restore.stsl, "probe", "hutch"),
        (restore.stsl, "repeats", 0),
        (restore.pnp_flow, "draws", 0),
        (restore.pnp_flow, "decay", -1),
        (restore.flower, "gamma", 5),
        (restore.dps, "step", -1),
        (restore.flow_dps, "inner", 0),
        (restore.daps, "variance", 0.0),
        (restore.daps, "ode", 0),
        (restore.diffpir, "lam", 0.0),
        (restore.diffpir, "zeta", 1.2),
        (restore.rebridge, "rho", 0.0),
        (restore.rebridge, "kappa", -1.0),
        (restore.sitcom, "anchor", -0.1),
        (restore.sitcom, "inner", -1),
        (restore.flow_priors, "inner", 0),
        (restore.afdps, "anneal", -1.0),
        (restore.tds, "tempering", -1.0),
        (restore.fig, "inner", 0),
    ],
)
def test_these_are_outside(method, name, value):
    """Each once gave a picture, or an error without a sentence."""
    with pytest.raises(ValueError, match=rf"^{method.__name__}: expected {name} .*, got "):
        begun(method, name, value)
