"""Commands made from requests: every option of a request model is one of the command, with its type, range, default and help.

    @command_from(app, DrawRequest, "sample", help="Draw pictures from a prior.", argument="prior")
    def sample(given: dict[str, Any]) -> None:
        request = request_of(DrawRequest, given, "sample")

`given` holds what was typed, nothing else. Further parameters of the function are options of the command alone (`resume`, `preview`), or
the context and words that are no options.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le
from pydantic import ValidationError

from ...app.errors import BadInput
from ...app.options.request import Option, Request, Untyped, fields, sentence_of

R = TypeVar("R", bound=Request)
Command = Callable[..., None]


def command_from(
    app: typer.Typer,
    model: type[Request],
    name: str,
    *,
    help: str,
    argument: str | None = None,
    without: Collection[str] = (),
    words: bool = False,
) -> Callable[[Command], Command]:
    """Makes a function with a parameter `given` a command, whose options are the fields of `model` and the function's other parameters.

    Args:
        argument: the field that is given without a `--`; without: fields that this command does not have.
        words: options of a method or an operator may be given, too; the function has parameters `context` and `words` for them.
    """

    def made(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        mine = [
            each.replace(annotation=hints[each.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for each in inspect.signature(function).parameters.values()
            if each.name != "given"
        ]
        listed, all_ = fields(model), [n for each in model.__mro__ for n in vars(each).get("__annotations__", ())]
        known = {
            n: listed[n]
            for n in dict.fromkeys(all_)
            if n in listed and n not in without and _typed(model, n, listed[n])
        }  # what the model adds to those below it comes first
        if "context" not in hints:
            mine.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        options = [_parameter(option, option.name == argument) for option in known.values()]
        options.sort(key=lambda each: each.name != argument)
        first = [each for each in mine if each.name in ("context", "words")]
        parameters = [*first, *options, *(each for each in mine if each not in first)]

        def command(**values: Any) -> None:
            source = values["context"].get_parameter_source
            given = {
                n: _value(option, values[n]) for n, option in known.items() if source(n) and source(n).name != "DEFAULT"
            }
            function(given=given, **{n: values[n] for n in hints if n not in ("given", "return")})

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        settings = {"allow_extra_args": True, "ignore_unknown_options": True} if words else {}
        app.command(name, help=help, context_settings=settings)(command)
        return command

    return made


def request_of(model: type[R], given: Mapping[str, Any], who: str) -> R:
    """The request that was typed. Raises BadInput, in the words of the command line."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise BadInput(sentence_of(error, fields(model), who, given, "option", "--")) from None


def own(command: Command) -> list[str]:
    """How the options of a command are spelled, without the `--`: a method's or an operator's option of that name needs its long form."""
    names = ["help"]
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in ("context", "words"):
            info = get_args(parameter.annotation)[-1]
            spelled = (info.default, *(info.param_decls or ()))  # Typer keeps the first spelling where a default would be
            names += [name, *(word.lstrip("-") for word in spelled if isinstance(word, str))]
    return names


def _typed(model: type[Request], name: str, option: Option) -> bool:
    """Whether a field can be typed: not if it is made from others, or holds the options of a function."""
    return not any(isinstance(each, Untyped) for each in model.model_fields[name].metadata) and not any(
        get_origin(kind) is dict and get_args(kind) != (str, float) for kind in option.types
    )


def _parameter(option: Option, positional: bool) -> inspect.Parameter:
    kind, bounds = next(each for each in option.kinds if each[0] is not NoneType)
    many, plain = get_origin(kind) in (list, tuple, dict), kind if kind in (bool, int, float, Path) else str
    typed: Any = list[plain] | None if many else plain if plain is bool or option.needed else plain | None  # type: ignore[valid-type]
    words = option.flags or (f"--{option.name.replace('_', '-')}",)
    low = next((b.ge for b in bounds if isinstance(b, Ge)), None)
    high = next((b.le for b in bounds if isinstance(b, Le)), None)
    told: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "min": low, "max": high}
    info = typer.Argument(**told) if positional else typer.Option(*words, **told)
    default = inspect.Parameter.empty if option.needed else None if many else option.default
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[typed, info]
    )


def _value(option: Option, value: Any) -> Any:
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


__all__ = ["command_from", "own", "request_of"]
