"""The options of a command, made from its request: names, types, ranges, defaults and help stand there and nowhere else.

@app.command()
@asks(DrawRequest, arguments=("prior",))
def sample(read: Callable[..., DrawRequest]) -> None:
    carried_out(draw(read()))
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from ...app.errors import BadInput
from ...app.options.request import Option, Request, Untyped, fields
from ...entry import described

R = TypeVar("R", bound=Request)
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that sorts options of functions among its words itself."""


def asks(
    model: type[R], *, arguments: Collection[str] = (), without: Collection[str] = (), words: tuple[str, str] = ("", "")
) -> Callable[..., Any]:
    """Decorates a command `(read, its own parameters)`.

    Typer sees the command's own parameters and then the fields of the request as options. The command gets `read`, which makes
    the request of what was typed and of the fields that the command adds: `read(method="flower")`.

    Args:
        arguments: fields that are typed by their place; without: fields that are not typed.
        words: what is typed first, and its help, of a command that is `FREE`: its own parameter `words` gets all that no field takes.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., None]:
        given_words = typer.Argument(metavar=f"{words[0]} [--OPTION VALUE]...", help=words[1])
        own = [
            each.replace(default=None, annotation=Annotated[list[str] | None, given_words]) if each.name == "words" else each
            for each in list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        ]  # fmt: skip
        mine = {each.name for each in own}
        typed = {name: option for name, option in _typed(model) if name not in without and name not in mine}

        @wraps(command)
        def wrapped(**given: Any) -> None:
            beside = {each.name: given.pop(each.name) for each in own}
            beside |= {"words": beside["words"] or []} if "words" in beside else {}
            # what was left at its default is not set: a file that holds the request does not hold it
            chosen = {
                name: _value(typed[name], value)
                for name, value in given.items()
                if value is not None and value != typed[name].default
            }

            def read(**more: Any) -> R:
                return model.of(chosen | more, command.__name__.strip("_").replace("_", " "), "--")

            command(read, **beside)

        steers = {"method": "steering"} if "reward" in typed else {}
        options = [_parameter(option, name in arguments, steers.get(name, name)) for name, option in typed.items()]
        options.sort(key=lambda each: each.name not in arguments)
        first = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        wrapped.__signature__ = inspect.Signature([*first, *options])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {each.name: each.annotation for each in [*first, *options]}
        return wrapped

    return decorate


def offered(what: str) -> Callable[[str], list[str]]:
    """What the shell completes: names of methods ("steering": of those that steer), operators or priors."""

    def complete(incomplete: str) -> list[str]:
        from ... import known
        from ...app.options.sources import names

        every = known.NAMES if what == "prior" else names(what)
        return [name for name in every if name.startswith(incomplete)]

    return complete


def own(command: Callable[..., None]) -> list[str]:
    """How the options of a command are spelled, without the `--`: a method's or an operator's option of that name needs its long form."""
    names = ["help"]
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in ("context", "words"):
            info = next((part for part in get_args(parameter.annotation) if hasattr(part, "param_decls")), None)
            # Typer keeps the first spelling where a default would be
            spelled = (info.default, *(info.param_decls or ())) if info is not None else ()
            names += [name, *(word.lstrip("-") for word in spelled if isinstance(word, str))]
    return names


def first(words: list[str], what: str, example: str) -> tuple[str, list[str]]:
    """The word that a command begins with, and the others."""
    if not words or words[0].startswith("-"):
        raise BadInput(f"name a {what} first{example}")
    return words[0], words[1:]


def sorted_out(command: Callable[..., None], words: list[str], parts: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options of functions among the words, by their part: "operator", "method" or another; nothing else may stand there."""
    from ...app.options.words import flags, sort_words

    mine = own(command)
    rest, given = sort_words(words, flags(parts, mine), mine)
    if rest:
        raise BadInput(f"expected {what}, got also {' '.join(rest)}")
    return {part: given.get(part, {}) for part in parts}


def with_options(
    command: Callable[..., None], request: R, functions: Iterable[Callable[..., Any]], words: list[str], what: str
) -> R:
    """The request with the options of its method, one of `functions`, which stand among the words; nothing else may."""
    from ...app.options.signature import pick

    parts = {"method": pick("method", request.method, functions)}  # type: ignore[attr-defined]
    return request.changed(method_options=sorted_out(command, words, parts, what)["method"])


def _typed(model: type[Request]) -> Iterator[tuple[str, Option]]:
    """The fields that can be typed, what a model adds to those below it first; none that holds the options of a function."""
    listed, all_ = fields(model), [n for each in model.__mro__ for n in vars(each).get("__annotations__", ())]
    for name in dict.fromkeys(all_):
        if name in listed and not any(isinstance(each, Untyped) for each in model.model_fields[name].metadata):
            option = listed[name]
            if not any(get_origin(kind) is dict and get_args(kind) != (str, float) for kind in option.types):
                yield name, option


def _parameter(option: Option, positional: bool, what: str) -> inspect.Parameter:
    kind, bounds = next(each for each in option.kinds if each[0] is not NoneType)
    several = len([each for each in option.types if each is not NoneType]) > 1  # auto, or a number
    many = _is_many(option)
    plain = kind if kind in (bool, int, float, Path) and not several else str
    typed: Any = list[plain] | None if many else plain if plain is bool or option.needed else plain | None  # type: ignore[valid-type]
    word = option.name.rstrip("_").replace("_", "-")
    words = option.flags or (f"--{word}/--no-{word}" if plain is bool and option.default else f"--{word}",)
    # that a count is at least 1 needs no words
    allowed = (
        described(tuple(b for b in bounds if getattr(b, "ge", None) not in (0, 1))) if plain in (int, float) else ""
    )
    shown: dict[str, Any] = {
        "help": option.help + f" Allowed: {allowed.removeprefix('of ')}." * bool(allowed),
        "metavar": option.metavar,
    }
    if what in ("method", "steering", "operator", "prior"):
        shown["autocompletion"] = offered(what)
    info = typer.Argument(**shown) if positional else typer.Option(*words, **shown)
    default = option.default if plain is not str or option.default is None else str(option.default)
    start = inspect.Parameter.empty if option.needed else None if many or kind is tuple else default
    if get_origin(kind) is tuple:
        start = None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=start, annotation=Annotated[typed, info]
    )


def _is_many(option: Option) -> bool:
    return any(
        get_origin(kind) in (list, dict) or (get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis)
        for kind in option.types
    )


def _value(option: Option, value: Any) -> Any:
    """What was typed, as the request takes it: `0,1` are two numbers, `brightness=0.4` is a number by its name."""
    if any(get_origin(kind) is tuple for kind in option.types) and isinstance(value, str):
        return value.split(",")
    if not any(get_origin(kind) is dict for kind in option.types):
        return value
    flag = option.flags[0] if option.flags else f"--{option.name}"
    found: dict[str, float] = {}
    for word in value:
        name, equals, text = word.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not equals or not math.isfinite(number):
            raise BadInput(f"{flag}: expected NAME=VALUE such as brightness=0.4, got {word!r}")
        if name in found:
            raise BadInput(f"{flag} {name} is given twice; give it once")
        found[name] = number
    return found
