"""A command's options, made from the request that it fills: name, type, default, range and help stand in the request alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel

from ...app.options.request import Option, fields


def takes(
    *models: type[BaseModel], without: Iterable[str] = (), first: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A function `(context, words, given)` as a command of Typer whose options are the fields of requests.

    Args:
        models: their fields, in this order; a name that several have belongs to the first.
        without: fields that the command does not have.
        first: parameters that come before, as `Annotated` types of Typer, by name; each has the default of its type.

    `given` holds the value of each option, by name, and of those `first`.
    """

    def told(function: Callable[..., Any]) -> Callable[..., None]:
        options = {name: o for model in reversed(models) for name, o in fields(model).items() if name not in without}
        ordered = {name: options[name] for model in models for name in fields(model) if name in options}
        parameters = [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
                for name, (kind, default) in (first or {}).items()
            ),
            *(_parameter(option) for option in ordered.values()),
        ]

        def command(context: typer.Context, **given: Any) -> None:
            function(context, {name: _value(ordered.get(name), value) for name, value in given.items()})

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return told


def flags_of(option: Option) -> tuple[str, ...]:
    """`--codec-error`, or how the field says that it is spelled."""
    return option.flags or (f"--{option.name.rstrip('_').replace('_', '-')}",)


def _parameter(option: Option) -> inspect.Parameter:
    types = [kind for kind in option.types if kind is not type(None)]
    kind: Any = next((each for each in (list[str], Path, float, int, bool, str) if _is(each, types)), str)
    least: Any = next((b.ge for _, bounds in option.kinds for b in bounds if isinstance(b, Ge)), None)
    most: Any = next((b.le for _, bounds in option.kinds for b in bounds if isinstance(b, Le)), None)
    numeric = kind in (int, float)
    default = option.default if option.default is not inspect.Parameter.empty else None
    words = list(flags_of(option))
    typed = typer.Option(
        *words, help=option.help, metavar=option.metavar, min=least if numeric else None, max=most if numeric else None
    )
    none = default is None or kind is list[str]
    return inspect.Parameter(
        option.name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None if kind is list[str] else str(default) if kind is str and default is not None else default,
        annotation=Annotated[kind | None if none else kind, typed],
    )  # fmt: skip


def _is(kind: Any, types: list[Any]) -> bool:
    if kind == list[str]:
        return any(get_origin(each) in (list, tuple) and get_args(each)[0] is str for each in types)
    return types == [kind]


def _value(option: Option | None, value: Any) -> Any:
    """What was typed, as the request takes it: `0,1` are two numbers."""
    if option is not None and isinstance(value, str) and any(get_origin(kind) is tuple for kind in option.types):
        return value.split(",")
    return value


def asked(models: Iterable[type[BaseModel]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was given, the fields of these requests; None is what was not given."""
    names = {name for model in models for name in model.model_fields}
    return {name: value for name, value in given.items() if name in names and value is not None}
