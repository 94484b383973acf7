"""Rewards as they are typed: `2*brightness`, `clip:model=openai/clip-vit-large-patch14,prompt=a cat`, `mine.py:function`.

What follows a comma and is no option belongs to the text before it, so that a prompt may have commas.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ... import rewards
from ...step import Reward
from ..errors import BadInput, nearest
from ..files import atomic as files
from ..models import opening as models
from ..options import own
from ..options.request import Plain
from ..options.signature import bind, options, pick, shown
from ..run import near
from .builders import BUILDERS, MODELS, Subject
from .scored import Own


class Term(NamedTuple):
    """One `--reward` or `--held-out`: `weight` times what `make` makes. `label` is how it was typed, without the weight."""

    weight: float
    label: str
    make: Callable[[Subject], Reward]
    reads: Mapping[str, str]  # what it is made of beside its words: models, files
    code: str | None = None  # a function of the user's, FILE.py:FUNCTION, whole

    @property
    def text(self) -> str:
        """To be read again, anywhere on this machine."""
        return self.label if self.weight == 1 else f"{self.weight!r}*{self.label}"


def term(text: str, flag: str = "reward") -> Term:
    """Reads `[WEIGHT*]NAME[:option=value,...]`, `[WEIGHT*]FILE.safetensors[:label=...]` or `[WEIGHT*]FILE.py:FUNCTION`.

    Raises:
        BadInput: one sentence. Nothing is loaded yet.
    """
    number, rest = weighed(text)
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or not weight or not rest:
        raise BadInput(f"--{flag}: expected WEIGHT*NAME with a weight that is not 0, as 2*brightness, got {text!r}")
    mine = None if rest.partition(":")[0] in {f.__name__ for f in BUILDERS} else own.word(rest)
    if mine is not None:
        return _own(weight, mine, flag)
    if found := re.match(r"(?!\w+:\w+=)(.+?\.safetensors)(?::|$)", rest):
        rest = f"classifier:weights={found[1]},{rest[found.end() :]}"
    if re.search(r"\.py$", rest):
        raise BadInput(f"--{flag}: expected FILE.py:FUNCTION, got {rest!r}; name the function in it")
    name, _, tail = rest.partition(":")
    builder = pick(flag.replace("-", " "), name, BUILDERS)
    given = _given(builder, tail)
    for key, option in options(builder).items():
        if option.needed and key not in given:
            raise BadInput(f"{name}: expected {key}=..., {option.help.rstrip('.')}; write {name}:{key}=...")
    values = bind(builder, given)
    named = {key: str(value) for key, value in values.items() if isinstance(value, Path) or key in MODELS}
    reads = {key: str(Path(path).absolute()) if Path(path).exists() else path for key, path in named.items()}
    values |= reads
    for key, option in options(builder).items():
        if Path in option.types and key in values:
            values[key] = Path(values[key])
            if not values[key].is_file():
                raise BadInput(f"--{flag}: {name}: {str(values[key])!r} does not exist; check the path")
    label = name + ":" * bool(values) + ",".join(f"{key}={shown(value)}" for key, value in values.items())
    return Term(weight, label, partial(builder, **values), {f"{name} {key}": path for key, path in reads.items()})


def weighed(text: str) -> tuple[str, str]:
    """The weight and the reward, both as they are typed: `2*clip:prompt=a*b` -> `2`, `clip:prompt=a*b`."""
    number, star, rest = text.partition("*")
    if not star or ":" in number:  # a text may have stars, too
        number, rest = ("-1", text[1:]) if text.startswith("-") else ("1", text)
    return number, rest.strip()


def summed(parts: Sequence[tuple[float, Reward]]) -> Reward:
    """The weighted sum."""
    return parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else rewards.Combined(parts)


def fingerprints(terms: Sequence[Term]) -> dict[str, str]:
    """Of the files and models that they are made of."""
    found = {}
    for what, path in {what: path for each in terms for what, path in each.reads.items()}.items():
        if Path(path).is_file():
            found[f"{what} sha256"] = files.sha256(Path(path))
        elif Path(path).is_dir():
            found[f"{what} fingerprint"] = models.fingerprint(path)
        else:
            found[what] = path  # of the hub, by name
    return found


def _given(builder: Callable[..., Any], tail: str) -> dict[str, Plain]:
    known, found = options(builder), dict[str, str]()
    last, who = "", builder.__name__
    for piece in tail.split(",") if tail else []:
        head, equals, value = piece.partition("=")
        key, text = head.strip(), bool(last) and str in known[last].types and last not in MODELS
        if equals and key in known:
            if key in found:
                raise BadInput(f"{who}: {key} is given twice; give it once")
            last, found[key] = key, value.strip()
        elif text and not (equals and difflib.get_close_matches(key, known, 1, 0.75)):
            found[last] += f",{piece}"
        elif piece.strip():
            raise BadInput(f"{who} has no option {key!r}; {nearest(key, known)}")
    return dict(found)


def _own(weight: float, whole: str, flag: str) -> Term:
    path = own.file(whole)
    if path.suffix == ".py" and not path.is_file():
        raise BadInput(f"--{flag}: {near(path)!r} does not exist; check the path")

    def make(subject: Subject) -> Reward:
        return Own(own.load("reward", whole), own.short(whole))

    return Term(weight, whole, make, {path.name: str(path)} if path.is_file() else {}, whole)
