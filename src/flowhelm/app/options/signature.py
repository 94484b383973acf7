"""Options that people set, read off the functions they belong to: names, types and ranges from the signature, help from the docstring.

An option is a parameter that is keyword-only or has a default, of type int, float, bool, str, Path, a Literal, or a function of the
library that has a name (an inner solver, an energy, a transition or its moments, a diffusion, a resampler); or any parameter of type Path
(the data of a recipe). Such a function may be given options of its own: `adam:iterations=50,rate=0.05`,
`langevin:diffusion=falling:level=4.5`. Everything else (noise, networks) is not for typing and is left out.

`model_of(function)` is the pydantic model of them; command line, schemas, pages and nodes are made from it.
"""

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, create_model

from ... import entry
from ..errors import BadInput, nearest
from . import own
from .named import named
from .request import Option, Plain, Request, brief, sentence_of


class Options(Request):
    """The options of one function; see `model_of`. As JSON holds them: a function of the library is its name."""


def pick(what: str, name: str, functions: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    """The function of that name; of a method or an operator also your own, FILE.py:NAME (see `own`).

    Raises:
        BadInput: there is none; it names the nearest.
    """
    names = {f.__name__: f for f in functions}
    if name not in names and what in ("method", "operator") and own.word(name):
        return own.load(what, name)
    if name not in names:
        raise BadInput(f"there is no {what} {brief(name)}; {nearest(name, names)}")
    return names[name]


@cache
def options(function: Callable[..., Any]) -> Mapping[str, Option]:
    """The options of a method, an operator, an inner solver, ... by name."""
    hints, helps = entry.parameter_types(function), _helps(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = tuple(k for k in entry.members(hints.get(name)) if k[0] is NoneType or _known(k[0]))
        typed = {k for k, _ in kinds} - {NoneType}
        asked = parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty or Path in typed
        if asked and typed:
            default = parameter.default if parameter.default is parameter.empty else shown(parameter.default)
            found[name] = Option(name, kinds, default, helps.get(name, ""))
    return found


@cache
def model_of(function: Callable[..., Any]) -> type[Options]:
    """The options of a function as a frozen pydantic model: types, ranges, defaults and help, each once."""
    fields: dict[str, Any] = {}
    for option in options(function).values():
        kind: Any = Union[tuple(_annotated(k, bounds) for k, bounds in option.kinds)]  # noqa: UP007  (at run time)
        default = ... if option.needed else option.default
        fields[option.name] = (kind, Field(default, description=option.help))
    return create_model(function.__name__, __base__=Options, **fields)


def read(function: Callable[..., Any], given: Mapping[str, Any], *, strict: bool = False) -> Options:
    """The options that were given, checked.

    Args:
        given: words as they are typed, or values; `strict`: as JSON has them, where "3" is no number.

    Raises:
        BadInput: an option that there is none of, one that is missing, or a value that does not fit.
    """
    model, known = model_of(function), options(function)
    try:
        if strict:
            return model.model_validate_json(json.dumps(dict(given), default=str), strict=True)
        nothing = {name: None for name, value in given.items() if _is_none(known.get(name), value)}
        words = {name: str(value) for name, value in given.items() if name not in nothing}
        return model.model_validate_strings(words).model_copy(update=nothing)
    except ValidationError as error:
        raise BadInput(sentence_of(error, known, function.__name__, given, "option", "" if strict else "--")) from None


def complete(function: Callable[..., Any], given: Mapping[str, Any], *, strict: bool = False) -> Options:
    """`read` with every default filled in and every path absolute: what a run's file holds."""
    chosen = read(function, given, strict=strict)
    values = {name: getattr(chosen, name) for name in options(function)}  # their defaults, too
    whole: dict[str, Any] = {n: value.absolute() if isinstance(value, Path) else value for n, value in values.items()}
    return model_of(function).model_construct(set(whole), **whole)


def values(function: Callable[..., Any], chosen: Options) -> dict[str, Any]:
    """What to call the function with: every option that was set, functions of the library as such."""
    known = options(function)
    return {name: _value(known[name], getattr(chosen, name)) for name in known if name in chosen.model_fields_set}


def bind(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values to call `function` with, from what was typed or stored. Raises BadInput on anything that does not fit."""
    found = values(function, read(function, given))
    return {name: found[name] for name in given}  # in the order in which they came


def plain(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Plain]:
    """Every option of `function` as JSON can hold it: what was given, else the default; paths made absolute."""
    return complete(function, given).model_dump(mode="json")


def shown(value: Any) -> Plain:
    """A value as it would be typed; numbers and None stay what they are."""
    if isinstance(value, partial):
        return f"{value.func.__name__}:" + ",".join(f"{k}={shown(v)}" for k, v in value.keywords.items())
    if isinstance(value, Path):
        return str(value.absolute())
    return value if value is None or isinstance(value, bool | int | float | str) else value.__name__


def _known(kind: Any) -> bool:
    return kind in (int, float, bool, str, Path) or get_origin(kind) is Literal or bool(named(kind))


def _annotated(kind: Any, bounds: tuple[Any, ...]) -> Any:
    if functions := named(kind):
        pattern = f"^({'|'.join(f.__name__ for f in functions)})(:.*)?$"
        schema = WithJsonSchema({"type": "string", "pattern": pattern})

        def check(text: str) -> str:
            function_of(functions, text)
            return text

        return Annotated[str, AfterValidator(check), schema]
    if kind in (int, float) and bounds:
        return Annotated[(kind, *bounds)]
    return None if kind is NoneType else kind


def function_of(functions: Sequence[Callable[..., Any]], text: str) -> Callable[..., Any]:
    """One of these functions by its name, its options fixed: `adam:iterations=50,rate=0.05`. Raises ValueError where nothing fits."""
    name, _, rest = text.partition(":")
    names = {f.__name__: f for f in functions}
    if name not in names:
        raise ValueError(f"there is no {brief(name)}; {nearest(name, names)}")
    chosen = bind(names[name], {key: value or "" for key, value in pairs(names[name], rest)})
    return partial(names[name], **chosen) if chosen else names[name]


def pairs(function: Callable[..., Any], text: str, beside: Collection[str] = ()) -> list[tuple[str, str | None]]:
    """`inner=adam:rate=0.1,iterations=9,strength=2` -> names and what stands behind them (None: no `=`).

    What follows an option that is itself a function with options belongs to that, if it has such an option, or if nothing else has:
    neither `function` nor what is given `beside`.
    """
    found: list[tuple[str, str | None]] = []
    for word in filter(None, (each.strip() for each in text.split(","))):
        key, equals, value = (part.strip() for part in word.partition("="))
        last, before = found[-1] if found else ("", None)
        function_before = bool(equals) and ":" in (before or "") and last in options(function)
        belongs = function_before and key not in options(function) and key not in beside
        if function_before and not belongs:
            inner = bind(function, {last: before}).get(last)
            inner = getattr(inner, "func", inner)
            belongs = callable(inner) and key in options(inner)
        if belongs:
            found[-1] = last, f"{before},{word}"
        else:
            found.append((key, value if equals else None))
    return found


def _value(option: Option, value: Any) -> Any:
    functions = [f for kind, _ in option.kinds for f in named(kind)]
    words = [kind for kind, _ in option.kinds if get_origin(kind) is Literal]
    if functions and isinstance(value, str) and not any(value in kind.__args__ for kind in words):
        chosen = function_of(functions, value)
        return chosen() if any(f.__module__.endswith(".diffusion") for f in functions) else chosen
    return value


def _is_none(option: Option | None, value: Any) -> bool:
    return option is not None and NoneType in option.types and str(value).lower() == "none"


def _helps(function: Callable[..., Any]) -> dict[str, str]:
    """`name: text` lines below `Args:` or `Options:`, up to the blank line; a line that begins otherwise goes on."""
    lines, names = inspect.cleandoc(function.__doc__ or "").splitlines(), inspect.signature(function).parameters
    start = next((i for i, line in enumerate(lines) if line.strip() in ("Args:", "Options:")), len(lines))
    found: dict[str, str] = {}
    name = ""
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        head = re.match(r"\s*(\w+): +(.*)", line)
        if head and head[1] in names:
            name, found[head[1]] = head[1], head[2]
        elif name:
            found[name] += " " + line.strip()
    return found
