"""What may be given to a method: ranges stand in its signature, and are checked once, where it begins.

A range is part of a type, `draws: Count`, `mix: Fraction`, or `Annotated[float, Gt(0), Lt(1)]`; a word is a Literal. From the same
signature come the options of the command line, schemas and pages, so a value that they would refuse is refused in Python, too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

P = ParamSpec("P")
Y = TypeVar("Y")

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1: iterations, particles, draws."""
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
"""A number in [0, 1]: a share, or a time."""


def checked(method: Callable[P, Iterator[Y]]) -> Callable[P, Iterator[Y]]:
    """A method whose words and ranges are checked at the first `next`. Write it above `torch.no_grad`.

    Raises, then:
        ValueError: an option that is none of its Literal's words or outside its range; what was expected, and what was given.
    """

    @wraps(method)
    def entered(*args: P.args, **kwargs: P.kwargs) -> Iterator[Y]:
        check(method, *args, **kwargs)
        yield from method(*args, **kwargs)

    return entered


def guarded(function: Callable[P, Y]) -> Callable[P, Y]:
    """A plain function whose words and ranges are checked where it is called; `checked` is for methods.

    Raises, then:
        ValueError: as `checked`.
    """

    @wraps(function)
    def entered(*args: P.args, **kwargs: P.kwargs) -> Y:
        check(function, *args, **kwargs)
        return function(*args, **kwargs)

    return entered


def check(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Raises ValueError for an argument that is outside what the signature of `function` allows.

    Words, numbers and None are checked; tensors and objects are the function's own business. The keywords of a partial (an inner
    solver, a transition, an energy) are checked by the signature of its function.
    """
    who, hints = function.__name__, parameter_types(function)
    for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
        if name in hints:
            problem = refusal(hints[name], value)
            if problem:
                raise ValueError(f"{who}: expected {name} {problem}, got {value!r}")
        if isinstance(value, partial):
            for inner, given in value.keywords.items():
                problem = refusal(parameter_types(value.func).get(inner, Any), given)
                if problem:
                    raise ValueError(f"{who}: expected {name}'s {inner} {problem}, got {given!r}")


@cache
def parameter_types(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Types of the parameters, with their ranges."""
    # not typing.get_type_hints, which builds the aliases of callables anew: they are told by identity
    return inspect.get_annotations(inspect.unwrap(function), eval_str=True)


def members(hint: Any) -> tuple[tuple[Any, tuple[Any, ...]], ...]:
    """The members of a union, or the type itself, each with the bounds of its range: `(type, (Ge(0), ...))`."""
    if get_origin(hint) is Annotated:
        bounds = tuple(b for b in hint.__metadata__ if isinstance(b, Ge | Gt | Le | Lt))
        return tuple((kind, (*own, *bounds)) for kind, own in members(hint.__origin__))
    if get_origin(hint) in (Union, UnionType):
        return tuple(pair for member in get_args(hint) for pair in members(member))
    return ((hint, ()),)


def refusal(hint: Any, value: Any) -> str:
    """What was expected, in words, if the value is a word, a number or None that the type does not allow; else nothing."""
    if value is not None and not isinstance(value, bool | int | float | str):
        return ""
    kinds = members(hint)
    simple = all(k in (int, float, bool, str, NoneType) or get_origin(k) is Literal for k, _ in kinds)
    if not simple and not isinstance(value, str | int | float):
        return ""
    if any(_fits(kind, bounds, value) for kind, bounds in kinds):
        return ""
    if not simple and not any(_sort(kind) is _sort(type(value)) for kind, _ in kinds):
        return ""
    return " or ".join(words for kind, bounds in kinds if (words := _words(kind, bounds)))


def inside(bounds: tuple[Any, ...], value: float) -> bool:
    """Whether a number is within all bounds; an infinite one only where a bound is infinite."""
    endless = value == math.inf and any(isinstance(b, Le) and b.le == math.inf for b in bounds)
    return (math.isfinite(value) or endless) and all(
        (not isinstance(b, Ge) or value >= b.ge)  # type: ignore[operator]
        and (not isinstance(b, Gt) or value > b.gt)  # type: ignore[operator]
        and (not isinstance(b, Le) or value <= b.le)  # type: ignore[operator]
        and (not isinstance(b, Lt) or value < b.lt)  # type: ignore[operator]
        for b in bounds
    )


def described(bounds: tuple[Any, ...]) -> str:
    """`of at least 0 and at most 1`."""
    words = {Ge: "of at least", Gt: "above", Le: "of at most", Lt: "below"}
    return " and ".join(f"{words[type(b)]} {getattr(b, type(b).__name__.lower())}" for b in bounds)


def _sort(kind: Any) -> Any:
    return str if kind is str or get_origin(kind) is Literal else float if kind in (int, float) else kind


def _fits(kind: Any, bounds: tuple[Any, ...], value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is NoneType:
        return value is None
    if kind in (int, float):
        whole = isinstance(value, int) or (kind is float and isinstance(value, float))
        return whole and not isinstance(value, bool) and inside(bounds, value)
    return kind is Any or (kind in (bool, str) and isinstance(value, kind))


def _words(kind: Any, bounds: tuple[Any, ...]) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", NoneType: "None"}
    return " ".join(filter(None, (plain.get(kind, ""), described(bounds))))
