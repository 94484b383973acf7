"""What `flowhelm methods` and `flowhelm operators` print: docstrings and signatures, nothing else."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...cards import card as whole
from ...cards import field
from .request import Option
from .signature import options, shown
from .words import flags


def listing(functions: Iterable[Callable[..., Any]]) -> Iterator[str]:
    """One line each; what it needs and what it costs below, if its module's card says so."""
    functions = list(functions)
    width = max(len(f.__name__) for f in functions) + 2
    for function in functions:
        yield f"{function.__name__:{width}}{title(function)}"
        for name in ("Needs", "Cost"):
            if said := field(function, name):
                yield f"{'':{width}}  {name.lower()} {said}"


def card(part: str, function: Callable[..., Any], own: Iterable[str]) -> Iterator[str]:
    """The whole card, then the options as they are typed, with their defaults."""
    yield f"{function.__name__}: {text(part, function)}" if part == "operator" else text(part, function)
    yield ""
    found = options(function)
    if not found:
        yield "No options."
    table = flags({part: function}, own)
    for option in found.values():
        plain = option.name.replace("_", "-")
        yield _line(plain if plain in table else f"{part}-{plain}", option)


def text(part: str, function: Callable[..., Any]) -> str:
    """The card without the options."""
    if part == "method":
        return whole(function)
    return re.split(r"\n+Options:", inspect.getdoc(function) or "")[0]


def _line(flag: str, option: Option) -> str:
    default = "needed" if option.needed else f"default {shown(option.default)}"
    return f"  --{flag}  ({option.expected}; {default})\n      {option.help}"


def title(function: Callable[..., Any]) -> str:
    """First line of the operator's docstring, or of the method's card."""
    own = (inspect.getdoc(function) or "").partition("\n")[0]
    card = whole(function).partition("\n")[0]
    return card.partition(". ")[0] if own.startswith("Args") or card.startswith(own.rstrip(".")) else own
