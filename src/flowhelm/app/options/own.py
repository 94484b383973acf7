"""Code of your own, `FILE.py:NAME` or `package.module:NAME`: a method, an operator, a prior or a reward.

Importing a file runs it. So a word counts only where the person at the terminal has typed it: the command line calls `trust` with its
own words, `rerun` and `--resume` with those of their file where `--trust` is given, a program in Python with what it means to run.
A word that comes from a file, a batch, HTTP or the page is refused by `load`, and nothing is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ... import entry
from ..errors import BadInput, first_line, nearest

PARTS = ("method", "operator", "prior", "reward")
_SHAPES = {
    "method": "(flow, y, x, times, *, ..., noise)",
    "operator": "(shape, *, ...)",
    "prior": "()",
    "reward": "(image)",
}
_POSITIONS = {"method": 4, "operator": 1, "prior": 0, "reward": 1}
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())
_loaded: dict[tuple[str, int, int], object] = {}
_words: dict[int, tuple[Callable[..., Any], str]] = {}


def split(text: str) -> tuple[str, str] | None:
    """`my.py:pnp:rate=1` -> (`/whole/path/my.py:pnp`, `rate=1`); None where the text names no code."""
    # deepinv:DRUNet is a prior by name, no module's
    found = re.fullmatch(r"(?!deepinv:)(.+?\.py|[A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*)(?::(.*))?", text, re.DOTALL)
    if not found:
        return None
    place, name, rest = found[1], found[2], found[3] or ""
    if place.endswith(".py"):
        place = str(Path(place).expanduser().absolute())
    return f"{place}:{name}", rest


def word(text: str) -> str | None:
    """The whole word, with the file's absolute path; None where the text names no code, or more than that."""
    found = split(text)
    return found[0] if found and not found[1] else None


def short(text: str) -> str:
    """The word as a sentence names it: without the folder."""
    place, _, name = text.rpartition(":")
    return f"{Path(place).name}:{name}" if place.endswith(".py") else text


def trust(*texts: str) -> None:
    """Lets these words be loaded from now on, in this context. Texts that name no code are passed over."""
    values = (text.partition("=")[2] if text.startswith("--") else text.removeprefix("-") for text in texts)
    found = (split(value.rpartition("*")[2]) for value in values)
    _trusted.set(_trusted.get() | {each[0] for each in found if each})


def forget() -> None:
    """Imports files anew when they are asked for next: each command runs the code as it stands then."""
    _loaded.clear()


def words_of(settings: Any) -> list[str]:
    """The code that settings name, whatever stands in them: of a file that nobody has checked yet."""
    if not isinstance(settings, dict):
        return []
    listed = [settings.get(part) for part in ("method", "operator", "prior")]
    for part in ("reward", "held_out"):
        listed += each if isinstance(each := settings.get(part), list) else []
    words = [each.rpartition("*")[2] for each in listed if isinstance(each, str)]
    return [whole for each in words if (whole := word(each))]


def trust_file(path: Path, words: Sequence[str], trusted: bool) -> None:
    """Lets the code be loaded that a file names, if the person has said so.

    Raises:
        BadInput: it names code, and nobody has.
    """
    if words and not trusted:
        raise BadInput(
            f"{str(path)!r} names code that would be run, {', '.join(words)}; read that code first, and run it with --trust"
        )
    trust(*words)


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in settings and tables: its whole word if it is your own, else its name."""
    held = _words.get(id(function))
    return held[1] if held is not None and held[0] is function else function.__name__


def load(part: str, text: str) -> Callable[..., Any]:
    """The method, operator, prior or reward that a word names.

    Raises:
        BadInput: as `found`, and for another signature than that of its kind.
    """
    function = found(part, text)
    shown = short(word(text) or text)
    if part in ("method", "operator") and not inspect.isfunction(function):
        raise BadInput(f"{part} {shown}: expected a function, got {type(function).__name__}; write it with def")
    _check_signature(part, shown, function)
    _words[id(function)] = (function, word(text) or text)
    return function


def found(part: str, text: str) -> Callable[..., Any]:
    """What a word names, whatever its arguments are.

    Raises:
        BadInput: nobody has typed the word; a missing file; an error in it, with its line; no such name, or no function.
    """
    whole = word(text) or text
    if whole not in _trusted.get():
        command = "steer" if part == "reward" else "restore"
        raise BadInput(
            f"{part} {short(whole)!r} is code, and code runs only where you type it yourself, as in flowhelm {command} --{part} "
            f"{short(whole)}; it is not taken from files, over HTTP or from the page"
        )
    place, _, name = whole.rpartition(":")
    module = _module(part, place)
    shown = Path(place).name if place.endswith(".py") else place
    function: Any = getattr(module, name, None)
    if function is None:
        mine = [
            n
            for n, each in vars(module).items()
            if callable(each) and getattr(each, "__module__", "") == module.__name__
        ]
        raise BadInput(f"{part} {shown}:{name}: {shown} has no {name!r}; {nearest(name, mine)}")
    if not callable(function):
        raise BadInput(f"{part} {shown}:{name} is no function but {type(function).__name__}; name a function")
    made: Callable[..., Any] = function
    return made


def check_file(part: str, text: str) -> None:
    """Raises BadInput if the file that a word names is not there; nothing is imported."""
    place = (word(text) or text).rpartition(":")[0]
    if place.endswith(".py") and not Path(place).is_file():
        raise BadInput(f"{part}: {place!r} does not exist; check the path")


def file(text: str) -> Path:
    """The file that a word names. Raises BadInput where there is none."""
    place = (word(text) or text).rpartition(":")[0]
    if not place.endswith(".py"):
        found = sys.modules.get(place)
        place = str(getattr(found, "__file__", None) or place)
    return Path(place)


def sha256(text: str) -> str:
    """Of the file that a word names; "" of a module without a file."""
    path = file(text)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def fingerprints(named_by: Iterable[tuple[str, str]]) -> dict[str, str]:
    """`method code sha256` and so on, of (part, word) pairs that name code."""
    return {f"{part} code sha256": sha256(text) for part, text in named_by if word(text)}


def _module(part: str, place: str) -> Any:
    if not place.endswith(".py"):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        with _told(part, place):
            return importlib.import_module(place)
    check_file(part, f"{place}:")
    path = Path(place)
    state = path.stat()
    key = (place, state.st_mtime_ns, state.st_size)
    if key not in _loaded:
        # a name of its own: a file called random.py must not stand for the module random
        name = f"own_{hashlib.sha256(place.encode()).hexdigest()[:8]}_{path.stem}"
        spec: Any = importlib.util.spec_from_file_location(name, place)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look for themselves there
        sys.path.insert(0, str(path.parent))  # what stands beside it may be imported by it
        try:
            with _told(part, place):
                spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        _loaded[key] = module
    return _loaded[key]


@contextmanager
def _told(part: str, place: str) -> Iterator[None]:
    """Says of anything that an import raises where in the file it was."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        shown = Path(place).name
        if isinstance(error, ModuleNotFoundError) and error.name and place.startswith(error.name):
            raise BadInput(
                f"{part}: there is no module {place!r} here; name a file, {place.replace('.', '/')}.py:NAME, or go to the folder that "
                "holds the package"
            ) from error
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == place]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else lines[-1] if lines else None
        at = f", line {line}" if line else ""
        what = error.msg if isinstance(error, SyntaxError) else first_line(error)
        raise BadInput(
            f"{part}: {shown} cannot be imported{at} ({type(error).__name__}: {what}); mend it, and try it with python {shown}"
        ) from error


def _check_signature(part: str, shown: str, function: Callable[..., Any]) -> None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return  # of a builtin nothing is known; calling it says what is wrong
    expected = f"{part} {shown}: expected a function {_SHAPES[part]}, got {_drawn(function)}"
    count = _POSITIONS[part]
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(places) < count and not many:
        raise BadInput(f"{expected}; give it {count} arguments")
    allowed = {p.name for p in places[:count]} | {"noise"}
    beyond = [name for name in needed if name not in allowed]
    if part == "method":
        if not any(p.name == "noise" or p.kind is p.VAR_KEYWORD for p in parameters):
            raise BadInput(f"{expected}; add noise: Noise | None = None, which it may leave alone")
    elif part in ("prior", "reward") and beyond:
        raise BadInput(f"{expected}; give {', '.join(beyond)} a default")
    if part not in ("method", "operator"):
        return
    try:
        hints = entry.parameter_types(function)
    except Exception as error:  # of whatever stands in the annotations
        raise BadInput(
            f"{part} {shown}: its types cannot be read ({type(error).__name__}: {first_line(error)}); import what they name"
        ) from error
    for each in parameters:
        plain = isinstance(each.default, bool | int | float | str)
        if each.name not in hints and plain and each.kind is not each.VAR_KEYWORD:
            kind = type(each.default).__name__
            raise BadInput(
                f"{part} {shown}: its option {each.name} has no type; write {each.name}: {kind} = {each.default!r}"
            )


def _drawn(function: Callable[..., Any]) -> str:
    try:
        names = [
            p.name if p.kind is not p.VAR_KEYWORD else f"**{p.name}"
            for p in inspect.signature(function).parameters.values()
        ]
    except (TypeError, ValueError):
        return "one without a signature"
    return f"({', '.join(names)})"
