"""Functions with their options in one word: `deblur:sigma=1.6,border=circular`, `mpc_flow:inner=adam:rate=0.05,strength=9`.

An option that is itself a function with options is followed by these; what it does not have belongs to the whole again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .images import BadInput
from .options import Plain, bind, nearest, options, pick


class Worded(NamedTuple):
    """What was typed: a function, what its options were given, and what was given beside them (`label`, `steps`, ...)."""

    function: Callable[..., Any]
    given: Mapping[str, Plain]
    beside: Mapping[str, str]


def worded(what: str, text: str, functions: Iterable[Callable[..., Any]], beside: Sequence[str] = ()) -> Worded:
    """Reads `NAME` or `NAME:option=value,...`; `beside` are further names that may be given. Raises BadInput."""
    name, _, rest = text.partition(":")
    function = pick(what, name, functions)
    known = options(function)
    pairs: list[tuple[str, str]] = []
    for word in filter(None, (w.strip() for w in rest.split(","))):
        key, equals, value = word.partition("=")
        if pairs and ":" in pairs[-1][1] and equals and _belongs(function, pairs[-1], key):
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{word}")
            continue
        if not equals or (key not in known and key not in beside):
            raise BadInput(f"{text!r}: {name} has no option {key!r}; {nearest(key, [*known, *beside])}")
        pairs.append((key, value))
    twice = {key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1}
    if twice:
        raise BadInput(f"{text!r}: {', '.join(sorted(twice))} is given twice; give it once")
    given = {key: value for key, value in pairs if key in known}
    bind(function, given)  # says at once what does not fit
    return Worded(function, given, {key: value for key, value in pairs if key not in known})


def _belongs(function: Callable[..., Any], before: tuple[str, str], key: str) -> bool:
    """Whether the option before is a function that has an option `key`."""
    value = bind(function, {before[0]: before[1]}).get(before[0]) if before[0] in options(function) else None
    chosen = getattr(value, "func", value)
    return callable(chosen) and key in options(chosen)
