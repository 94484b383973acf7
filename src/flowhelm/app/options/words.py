"""Words that people type: options behind `--`, and functions with their options in one word.

    --sigma 1.6 --border circular
    deblur:sigma=1.6,border=circular      mpc_flow:inner=adam:rate=0.05,strength=9

In one word, an option that is itself a function with options is followed by these; what it does not have belongs to the whole again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput, nearest
from . import own
from .request import SWITCH, Option, Plain
from .signature import bind, options, pairs, pick, read


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
        if not equals and bool in option.types and not (queue and queue[0].lower() in SWITCH):
            text = "true"
        elif not equals:
            if not queue or queue[0].startswith("--"):
                raise BadInput(f"--{name} needs a value: {option.help or 'see its help'}")
            text = queue.pop(0)
        given[part][option.name] = text
    return rest, given


def check(function: Callable[..., Any], given: Mapping[str, Plain]) -> None:
    """Raises BadInput for options that do not fit, and for a file among them that is not there; `function` may be a stub.

    A pattern (`masks/{stem}.png`, `masks/{path}.*`) is of a batch, which reads it for each of its pictures.
    """
    read(function, given)
    for name, option in options(function).items():
        value = str(given.get(name, ""))
        pattern = "{stem}" in value or "{path}" in value or value.endswith(".*")
        if Path not in option.types or not value or ":" in value or value == "alpha" or pattern:
            continue
        if not Path(value).exists():
            raise BadInput(f"{function.__name__}: {value!r} does not exist; check the path")


class Worded(NamedTuple):
    """What was typed: a function, what its options were given, and what was given beside them (`label`, `steps`, ...)."""

    function: Callable[..., Any]
    given: Mapping[str, Plain]
    beside: Mapping[str, str]


def worded(what: str, text: str, functions: Iterable[Callable[..., Any]], beside: Sequence[str] = ()) -> Worded:
    """Reads `NAME` or `NAME:option=value,...`; `beside` are further names that may be given. Raises BadInput.

    NAME may be your own, `FILE.py:NAME` or `package.module:NAME`.
    """
    functions = list(functions)
    name, _, rest = text.partition(":")
    mine = None if name in {f.__name__ for f in functions} else own.split(text)
    if mine is not None:
        name, rest = mine
    function = pick(what, name, functions)
    name = own.short(name)
    known = options(function)
    typed: dict[str, str] = {}
    for key, value in pairs(function, rest, beside):
        if value is None or (key not in known and key not in beside):
            raise BadInput(f"{text!r}: {name} has no option {key!r}; {nearest(key, [*known, *beside])}")
        if key in typed:
            raise BadInput(f"{text!r}: {key} is given twice; give it once")
        typed[key] = value
    given = {key: value for key, value in typed.items() if key in known}
    bind(function, given)  # says at once what does not fit
    return Worded(function, given, {key: value for key, value in typed.items() if key not in known})
