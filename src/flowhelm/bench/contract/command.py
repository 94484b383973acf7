"""`flowhelm check my.py:mine`: every law on code of your own, a line each."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import operators
from ...app.errors import BadInput, first_line
from ...app.models.doctor import check_deepinv, examined
from ...app.models.request import DoctorRequest, size_of
from ...app.options import own
from ...app.options.signature import bind, pick
from ...app.run import Run, Said
from ...cards import METHODS
from ...priors import NAMES
from . import laws, pictures, world
from .laws import Breach, Note
from .request import CheckRequest, Kind

SIDE = 32
WIDTH = 12


def check(request: CheckRequest) -> Run[bool]:
    """Says what holds and what does not; whether all of it holds.

    Raises:
        BadInput: there is no such thing, or an option does not fit.
    """
    kind = request.kind or kind_of(request.name)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    if request.options and kind not in ("method", "operator"):
        raise BadInput(f"check: a {kind} takes no options here, got {', '.join(request.options)}")
    if kind == "prior":
        return (yield from examined(DoctorRequest(prior=request.name)))
    sound = True
    for name, verdict, words in found(kind, request):
        sound &= verdict != "broken"
        yield Said(f"{name:{WIDTH}} {verdict:8} {words}")
    shown = own.short(request.name)
    yield Said(f"{shown}: all well" if sound else f"{shown}: not yet; mend what is broken, and check again")
    return sound


def kind_of(name: str) -> Kind:
    """What a name stands for: by its place in the package, or by the arguments of the function."""
    if name in {f.__name__ for f in METHODS}:
        return "method"
    if name in {f.__name__ for f in operators.ALL}:
        return "operator"
    if name in NAMES or not own.word(name):
        if not own.word(name) and name not in NAMES:
            names = ", ".join(f.__name__ for f in (*METHODS, *operators.ALL))
            raise BadInput(f"there is no {name!r}; expected FILE.py:NAME, package.module:NAME, or one of {names}")
        return "prior"
    function = own.found("code", name)
    parameters = list(inspect.signature(function).parameters.values())
    places = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if not places:
        return "prior"
    if places == ["shape"]:
        return "operator"
    if len(places) == 1:
        return "reward"
    return "method"  # of other arguments `own.load` says what is wrong


def found(kind: Kind, request: CheckRequest) -> Iterator[tuple[str, str, str]]:
    """(law, "well", "note" or "broken", what there is to say), one after another."""
    name = request.name
    if kind == "method":
        yield from _method(pick("method", name, METHODS), request.options, name)
        return
    height, width = size_of(request.size) or (SIDE, SIDE)
    shape = (3, height, width)
    if kind == "reward":
        function = own.load("reward", name)
        for law in pictures.REWARD_LAWS:
            yield _tried(law.__name__, partial(law, function, shape), name)
        return
    check_deepinv()
    builder = pick("operator", name, operators.ALL)
    values = bind(builder, request.options)
    try:
        operator = operators.built(builder, shape, values, request.device)
    except ValueError as error:  # it may take no pictures of that size
        raise BadInput(f"{error}; give --size HEIGHTxWIDTH for another size of pictures") from error
    for law in pictures.OPERATOR_LAWS:
        line = _tried(law.__name__, partial(law, operator, shape), name)
        yield line
        if law is pictures.measures and line[1] == "broken":
            return  # all else would say the same


def _method(function: Callable[..., Any], options: dict[str, Any], name: str) -> Iterator[tuple[str, str, str]]:
    method = partial(function, **bind(function, options))
    method.__name__ = function.__name__  # type: ignore[attr-defined]
    flows, y = world.flows(), world.measured()
    for law in laws.ALL:
        line = _tried(law.__name__, partial(law, method, flows["pixels"], y), name)
        yield line
        if law is laws.contract and line[1] == "broken":
            return  # all else would say the same
    yield _tried("latent", partial(laws.latent, method, flows["latent"], y), name)


def _tried(law: str, run: Callable[[], str], name: str) -> tuple[str, str, str]:
    try:
        return law, "well", run()
    except Breach as breach:
        return law, "broken", str(breach)
    except Note as note:
        return law, "note", str(note)
    except Exception as error:  # of a stranger's code
        place = str(own.file(name)) if own.word(name) else ""
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if place and each.filename == place]
        at = f" at {Path(place).name}, line {lines[-1]}" if lines else ""
        return law, "broken", f"it raises {type(error).__name__}{at}: {first_line(error)}"
