"""Functions of the library that an option chooses from by their names."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from . import sources

_PACKAGE = __name__.split(".")[0]
_MOMENTS = ("ancestral_moments", "langevin_moments", "renoise_moments")
CHOICES: Mapping[tuple[str, str], str | tuple[str, ...]] = {
    ("inner", "Inner"): "ALL",
    ("control", "Energy"): "ENERGIES",
    ("transition", "Transition"): "ALL",
    ("transition", "Moments"): _MOMENTS,
    ("solve", "Solver"): "sample:ALL",
    ("multistep.slopes", "Slope"): "ALL",
    ("particles", "Resampler"): ("systematic", "stratified", "residual"),
    ("transition.diffusion", "Diffusion"): ("constant", "falling", "cosine", "hill"),
}
"""Module and alias of a type -> the functions of that type, by the name of their tuple (`module:TUPLE` of another module) or one by one.

Diffusions are made by theirs."""


def named(kind: Any) -> Sequence[Callable[..., Any]]:
    """The functions that an option of this type chooses from. Told by identity: two aliases may be equal.

    Of the type of a stub (`sources`) these are stubs, too.
    """
    if getattr(kind, "__module__", "") == sources.__name__:
        # only the sources of this type are read: a refusal should not wait for all of them
        places = (place for place, alias in CHOICES if alias == kind.__name__)
        return next(
            (_stubs(at, kind.__name__) for at in places if sources.resolve(f"{_PACKAGE}.{at}", kind.__name__) is kind),
            (),
        )
    if (
        "torch" not in sys.modules
    ):  # nor is then any module that an alias comes from, and none is imported to find that out
        return ()
    return next((each for alias, each in _functions() if alias is kind), ())


@cache
def _functions() -> list[tuple[Any, tuple[Callable[..., Any], ...]]]:
    found = []
    for (place, alias), names in CHOICES.items():
        module = import_module(f"{_PACKAGE}.{place}")
        if isinstance(names, str):
            home, listed = _listed(place, names)
            each = getattr(import_module(f"{_PACKAGE}.{home}"), listed)
        else:
            each = [getattr(module, name) for name in names]
        found.append((getattr(module, alias), tuple(each)))
    return found


def _listed(place: str, names: str) -> tuple[str, str]:
    """Module and name of a tuple: `ALL` of the alias's own module, `sample:ALL` of another."""
    home, colon, listed = names.rpartition(":")
    return (home, listed) if colon else (place, names)


@cache
def _stubs(place: str, alias: str) -> tuple[Callable[..., Any], ...]:
    names = CHOICES[place, alias]
    if isinstance(names, str):
        return sources.listed(*_listed(place, names))
    return tuple(sources.resolve(f"{_PACKAGE}.{place}", name) for name in names)
