"""Requests: what people may set, once. Every name, type, unit, range, default and help text stands in a frozen pydantic model.

Command line, YAML and JSON with their schema, HTTP bodies, the page's fields, ComfyUI's nodes and Python callers are made from the same
model, and what is read back from disk is checked by it. This file needs no torch: the command line's help is made from it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from ...entry import described, members
from ..errors import BadInput, nearest
from .named import named

Plain = bool | int | float | str | None
"""A value as JSON holds it."""
F = TypeVar("F", bound=Callable[..., Any])
SWITCH = ("true", "yes", "on", "1", "false", "no", "off", "0")


class Option(NamedTuple):
    """One option. `kinds` are the members of its type with the bounds of their ranges; `default` is `inspect.Parameter.empty` if it
    must be given; `flags`, how the command line spells it, where not by its name."""

    name: str
    kinds: tuple[tuple[Any, tuple[Any, ...]], ...]
    default: Any
    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def needed(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def types(self) -> tuple[Any, ...]:
        return tuple(kind for kind, _ in self.kinds)

    @property
    def expected(self) -> str:
        """`a number above 0 or None`."""
        found = []
        for kind, bounds in self.kinds:
            if get_origin(kind) is Literal:
                found.append("one of " + ", ".join(map(str, get_args(kind))))
            elif get_origin(kind) is tuple:
                found.append("two numbers")
            elif get_origin(kind) is list:
                found.append(f"a list of {_WORDS.get(get_args(kind)[0], 'value').removeprefix('a ')}s")
            elif functions := named(kind) if kind not in _WORDS else ():
                found.append("one of " + ", ".join(f.__name__ for f in functions))
            else:
                found.append(
                    " ".join(filter(None, (_WORDS.get(kind, "a value"), "" if kind is NoneType else described(bounds))))
                )
        return " or ".join(dict.fromkeys(found))


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a file", NoneType: "none",
}  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """How the command line spells a field, where not by its name: `Annotated[tuple[str, ...], Flag("--class")]`."""

    words: tuple[str, ...] = ()
    metavar: str | None = None


@dataclass(frozen=True)
class Untyped:
    """A field that the command line does not have: it is an argument there, or made from others."""


class Request(BaseModel):
    """What may be set for a piece of work. Frozen; an unknown name or a value out of range is refused."""

    # built when first used: a command asks for one of thirty
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    @classmethod
    def of(cls, given: Mapping[str, Any], who: str, dash: str = "") -> Self:
        """From values of Python or, with dash "--", of a command line. Raises BadInput, whose sentence `who` begins."""
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise BadInput(sentence_of(error, fields(cls), who, given, "", dash)) from None

    @classmethod
    def of_json(cls, given: Any, who: str) -> Self:
        """From what JSON or YAML has said, to the letter: "3" is no number there. Raises BadInput."""
        try:
            text = json.dumps(given, allow_nan=False, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"{who}: expected JSON without NaN and infinities ({error})") from None
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise BadInput(sentence_of(error, fields(cls), who, given)) from None

    def changed(self, **values: Any) -> Self:
        """With other values; they are taken as they are."""
        return self.model_copy(update=values)

    def stored(self) -> dict[str, Any]:
        """As JSON holds it: what was set, nothing else."""
        return self.model_dump(mode="json", exclude_unset=True)


def fields(model: type[BaseModel]) -> dict[str, Option]:
    """The fields of a request, as options."""
    found = {}
    for name, field in model.model_fields.items():
        bounds = tuple(field.metadata)
        hint = Annotated[(field.annotation, *bounds)] if bounds else field.annotation
        default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
        flag = next((each for each in bounds if isinstance(each, Flag)), Flag())
        found[name] = Option(name, members(hint), default, field.description or "", flag.words, flag.metavar)
    return found


def called_with(model: type[BaseModel]) -> Callable[[F], F]:
    """For a function whose `**options` are the fields of a request: its signature and its help then say so."""

    def told(function: F) -> F:
        given = inspect.signature(function).parameters.values()
        own = {p.name: p for p in given if p.kind is not p.VAR_KEYWORD}
        more = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=model.model_fields[n].annotation)
            for n, o in fields(model).items()
            if n not in own
        ]  # fmt: skip
        function.__signature__ = inspect.Signature([*own.values(), *more])  # type: ignore[attr-defined]
        return function

    return told


def sentence_of(
    error: ValidationError, known: Mapping[str, Option], who: str, given: Any, what: str = "", dash: str = ""
) -> str:
    """One sentence of what pydantic found: the first thing that is wrong, with what was expected, what came, and what to do.

    Args:
        known: the fields; who: begins the sentence; given: what was read; what: a field is called; dash: "--" for typed words.
    """
    found = error.errors(include_url=False)
    # a misspelt name is why another one is missing
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else ""
    known_as = known[name].flags if name in known and dash else ()
    flag = known_as[0] if known_as else dash + (name.replace("_", "-") if dash else name)
    if first["type"] == "extra_forbidden":
        return f"{who} has no {what + ' ' if what else ''}{brief(name)}; {nearest(name, known)}"
    if first["type"] == "missing" and len(where) == 1:
        help_ = known[name].help if name in known else ""
        return f"{who} needs {flag}: {help_ or 'a value'}"
    if first["type"] == "value_error":  # a check of our own says it whole
        told = str(first["ctx"]["error"])
        return f"{who}: {flag}: {told}" if name else told if told.startswith(who) else f"{who}: {told}"
    if name not in known:
        return f"{who}: expected an object with {', '.join(known)}, got {brief(given)}"
    value = given.get(name) if isinstance(given, Mapping) else first["input"]
    one = [part for part in known[name].types if get_origin(part) is Literal]
    if isinstance(value, str) and one and all(get_origin(k) is Literal or k is NoneType for k in known[name].types):
        return (
            f"{who}: {flag}: there is no {brief(value)}; {nearest(value, [w for k in one for w in get_args(k) if w])}"
        )
    return f"{who}: {flag}: expected {known[name].expected}, got {brief(value)}"


def brief(value: Any) -> str:
    """A value in a sentence: what was given may be a book."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
