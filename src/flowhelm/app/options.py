"""Options people type, read off the functions they belong to: names and types from the signature, help from the docstring.

An option is a keyword-only parameter of type int, float, bool, str, Path, a Literal, or a function of the library that
has a name (an inner solver, an energy, a transition or its moments, a resampler); or any parameter of type Path (the data of a
recipe). Such a function may be given options of its own: `adam:iterations=50,rate=0.05`, `glass:inner=4`. Everything else
(noise, networks) is not for typing and is left out.
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from .. import entry
from .images import BadInput

Plain = bool | int | float | str | None
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Option(NamedTuple):
    """One option: `kinds` are the members of its type; `default` is `inspect.Parameter.empty` if it must be given."""

    name: str
    kinds: tuple[Any, ...]
    default: Any
    help: str

    @property
    def needed(self) -> bool:
        return self.default is inspect.Parameter.empty


def pick(what: str, name: str, functions: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    """The function of that name. Raises BadInput that names the nearest."""
    names = {f.__name__: f for f in functions}
    if name not in names:
        raise BadInput(f"there is no {what} {name!r}; {nearest(name, names)}")
    return names[name]


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean ...?` if one of the names is near, else all of them."""
    close = difflib.get_close_matches(name, list(names := list(names)), 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"expected {', '.join(names) or 'none'}"


def options(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a method, an operator, an inner solver, ... by name."""
    # not typing.get_type_hints, which builds the aliases of callables anew: they are told by identity
    hints, helps = inspect.get_annotations(function, eval_str=True), _helps(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = tuple(k for k in members(hints.get(name)) if k is NoneType or _known(k))
        if (parameter.kind is parameter.KEYWORD_ONLY or Path in kinds) and set(kinds) - {NoneType}:
            found[name] = Option(name, kinds, parameter.default, helps.get(name, ""))
    return found


def bind(function: Callable[..., Any], given: Mapping[str, Plain]) -> dict[str, Any]:
    """Values to call `function` with, from what was typed or stored. Raises BadInput on anything that does not fit."""
    known, who = options(function), function.__name__
    for name in given:
        if name not in known:
            raise BadInput(f"{who} has no option {name!r}; {nearest(name, known)}")
    for option in known.values():
        if option.needed and option.name not in given:
            raise BadInput(f"{who} needs --{option.name}: {option.help or 'a value'}")
    return {name: _value(who, known[name], value) for name, value in given.items()}


def plain(function: Callable[..., Any], given: Mapping[str, Plain]) -> dict[str, Plain]:
    """Every option of `function` as JSON can hold it: what was given, else the default; paths made absolute."""
    values = {o.name: o.default for o in options(function).values() if not o.needed} | bind(function, given)
    return {name: shown(value) for name, value in values.items()}


def shown(value: Any) -> Plain:
    """A value as it would be typed; numbers and None stay what they are."""
    if isinstance(value, partial):
        return f"{value.func.__name__}:" + ",".join(f"{k}={shown(v)}" for k, v in value.keywords.items())
    if isinstance(value, Path):
        return str(value.absolute())
    return value if value is None or isinstance(value, bool | int | float | str) else value.__name__


def flags(parts: Mapping[str, Callable[..., Any]], own: Iterable[str]) -> dict[str, tuple[str, Option]]:
    """What may be typed behind `--`: name -> (part, option).

    A name that several have belongs to the first: the command (`own`), then `parts` in their order. The long form,
    `PART-NAME`, always works.
    """
    table: dict[str, tuple[str, Option]] = {}
    for part, function in parts.items():
        for name, option in options(function).items():
            if name not in own:
                table.setdefault(name.replace("_", "-"), (part, option))
            table[f"{part}-{name}".replace("_", "-")] = (part, option)
    return table


def sort_words(
    words: Sequence[str], table: Mapping[str, tuple[str, Option]], own: Iterable[str]
) -> tuple[list[str], dict[str, dict[str, Plain]]]:
    """Words of a command line -> those that are no options, and what was given to each part of `flags`."""
    rest: list[str] = []
    given: dict[str, dict[str, Plain]] = {part: {} for part, _ in table.values()}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        name = name.replace("_", "-")
        if name not in table:
            raise BadInput(
                f"there is no option --{name} here; {nearest(f'--{name}', [f'--{n}' for n in [*table, *own]])}"
            )
        part, option = table[name]
        if option.name in given[part]:
            raise BadInput(f"--{name} is given twice; give it once")
        if not equals and bool in option.kinds and not (queue and queue[0].lower() in _SWITCH):
            text = "true"
        elif not equals:
            if not queue or queue[0].startswith("--"):
                raise BadInput(f"--{name} needs a value: {option.help or 'see its help'}")
            text = queue.pop(0)
        given[part][option.name] = text
    return rest, given


def _value(who: str, option: Option, given: Plain) -> Any:
    text = "none" if given is None else str(given)
    problems = []
    for kind in option.kinds:
        try:
            return _read(kind, text)
        except BadInput as error:
            problems.append(str(error))
    raise BadInput(f"{who}: --{option.name} {' or '.join(problems)}, got {text!r}")


def _read(kind: Any, text: str) -> Any:
    """The value, or BadInput with what was expected."""
    if kind is NoneType:
        if text.lower() != "none":
            raise BadInput("expected none")
        return None
    if kind is bool:
        if text.lower() not in _SWITCH:
            raise BadInput("expected true or false")
        return _SWITCH[text.lower()]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise BadInput(f"expected one of {', '.join(map(str, get_args(kind)))}")
        return text
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise BadInput("expected a whole number" if kind is int else "expected a number")
        return number
    if kind in (str, Path):
        return kind(text)
    name, _, rest = text.partition(":")
    functions = {f.__name__: f for f in named(kind)}
    if name not in functions:
        raise BadInput(f"has no {name!r} ({nearest(name, functions)})")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    chosen = bind(functions[name], {k.strip(): v.strip() for k, _, v in pairs})
    return partial(functions[name], **chosen) if chosen else functions[name]


def members(hint: Any) -> tuple[Any, ...]:
    """Of a union; of any other type itself. Without ranges."""
    return tuple(kind for kind, _ in entry.members(hint))


def _known(kind: Any) -> bool:
    return kind in (int, float, bool, str, Path) or get_origin(kind) is Literal or bool(named(kind))


def named(kind: Any) -> Sequence[Callable[..., Any]]:
    """The functions that an option of this type chooses from. Told by identity: two aliases may be equal."""
    from .. import inner, particles, transition
    from ..control import ENERGIES, Energy

    moments = (transition.ancestral_moments, transition.langevin_moments, transition.renoise_moments)
    choices: tuple[tuple[Any, Sequence[Callable[..., Any]]], ...] = (
        (inner.Inner, inner.ALL),
        (Energy, ENERGIES),
        (transition.Transition, transition.ALL),
        (transition.Moments, moments),
        (particles.Resampler, (particles.systematic, particles.stratified, particles.residual)),
    )
    return next((functions for alias, functions in choices if alias is kind), ())


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
