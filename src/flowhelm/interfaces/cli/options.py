"""The options of a command, made from its request: names, types, ranges, defaults and help stand there and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import ValidationError

from ...app.errors import BadInput
from ...app.options.request import Option, Request, Untyped, fields, sentence_of
from ...entry import described

R = TypeVar("R", bound=Request)


def asks(model: type[R], *, arguments: Collection[str] = (), without: Collection[str] = ()) -> Callable[..., Any]:
    """Decorates a command `(request given as a function, its own parameters)`: `def bench(read: Callable[..., BenchRequest])`.

    Typer sees the command's own parameters and then the fields of the request as options. The command gets `read`, which makes
    the request of what was typed and of the fields that the command adds: `read(method="flower")`.

    Args:
        arguments: fields that are typed by their place; without: fields that are not typed.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        typed = {
            name: option
            for name, option in fields(model).items()
            if name not in without and not any(isinstance(each, Untyped) for each in model.model_fields[name].metadata)
        }

        @wraps(command)
        def wrapped(**given: Any) -> None:
            mine = {each.name: given.pop(each.name) for each in own}
            # what was left at its default is not set: a file that holds the request does not hold it
            chosen = {
                name: value for name, value in given.items() if value is not None and value != typed[name].default
            }

            def read(**more: Any) -> R:
                try:
                    return model.model_validate(chosen | more)
                except ValidationError as error:
                    who = command.__name__.strip("_").replace("_", " ")
                    raise BadInput(sentence_of(error, fields(model), who, chosen | more, "option", "--")) from None

            command(read, **mine)

        needed = [_parameter(option, name in arguments) for name, option in typed.items()]
        wrapped.__signature__ = inspect.Signature([*own, *needed])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {each.name: each.annotation for each in [*own, *needed]}
        return wrapped

    return decorate


def _parameter(option: Option, argument: bool) -> inspect.Parameter:
    kinds = [kind for kind in option.types if kind is not NoneType]
    kind: Any = kinds[0]
    default = ... if option.needed else option.default
    # that a count is at least 1 needs no words
    ranged = described(tuple(b for b in option.kinds[0][1] if getattr(b, "ge", None) not in (0, 1))).removeprefix("of ")
    help_ = f"{option.help.removesuffix('.')} ({ranged})." if ranged else option.help
    shown: dict[str, Any] = {
        "help": help_,
        "metavar": option.metavar or (option.name.upper() if get_origin(kind) is tuple else None),
    }
    if get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], ... if option.needed else None  # type: ignore[misc]
    elif get_origin(kind) is Literal or kind not in (int, float, bool, str, Path):
        kind = str
    if kind is bool and not option.flags:
        word = option.name.replace("_", "-")
        words: tuple[str, ...] = (f"--{word}/--no-{word}" if default else f"--{word}",)
    else:
        words = option.flags or (f"--{option.name.replace('_', '-')}",)
    of = typer.Argument(**shown) if argument else typer.Option(*words, **shown)
    hint = Annotated[kind | None if default is None else kind, of]  # type: ignore[valid-type]
    start = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=start, annotation=hint)
