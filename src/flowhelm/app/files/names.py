"""Names that come from elsewhere: of members of an archive, of arrays, of classes in a weights' file. One becomes a path, or is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import BadInput

LONGEST, LONGEST_PATH = 255, 4095
"""Bytes of a name and of a whole path, where the system says nothing else."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def below(name: str) -> Path:
    """A stranger's name as a path below a folder; `/`, `\\` and `:` divide it, on every system alike.

    Raises:
        BadInput: it is absolute, names a drive, leads out of the folder, has a part that is empty, reserved or too long, or a character
            that cannot be seen.
    """
    parts = re.split(r"[/\\:]", name)
    fault = _fault(name, parts)
    if fault:
        raise BadInput(f"names {name[:200]!r}, which {fault}; expected a name below the folder, such as lamps/0001.png")
    return Path(*parts)


def part(text: str) -> str:
    """A stranger's word as a part of a file's name: what cannot stand there becomes `_`."""
    word = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text).strip(". ")
    while len(os.fsencode(word)) > LONGEST // 2:
        word = word[:-1]
    return f"_{word}" if not word or _RESERVED.fullmatch(word) else word


def check_lengths(paths: Iterable[Path]) -> None:
    """Raises BadInput if a file could not have that name; call it before the long work."""
    for path in paths:
        folder = next(each for each in [path.parent, *path.absolute().parents] if each.exists())
        try:
            most, whole = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX") - 1
        except (AttributeError, OSError, ValueError):
            most, whole = LONGEST, LONGEST_PATH
        longest = max(path.parts, key=lambda each: len(os.fsencode(each)))
        if len(os.fsencode(longest)) > most or len(os.fsencode(path.absolute())) > whole:
            raise BadInput(
                f"the result would be called {longest[:60]!r}..., a name of {len(os.fsencode(longest))} bytes in a path of "
                f"{len(os.fsencode(path.absolute()))}; this folder takes {most} and {whole}: give the picture a shorter name"
            )


def check_below(folder: Path, paths: Iterable[Path]) -> None:
    """Raises BadInput if writing one of them would write elsewhere than in the folder, by `..` or by a link."""
    there = os.path.realpath(folder)
    for path in paths:
        if not Path(os.path.realpath(path)).is_relative_to(there):
            raise BadInput(f"{str(path)!r} leads out of {str(folder)!r}; give --out FOLDER to write elsewhere")


def _fault(name: str, parts: list[str]) -> str:
    if name.startswith(("/", "\\")):
        return "is absolute"
    if not name.isprintable():
        return "holds control characters or bytes that are no text"
    if ".." in parts or re.match(r"[A-Za-z]:", name):
        return "leads out of the folder"
    if any(each in ("", ".") or each != each.rstrip(". ") or _RESERVED.fullmatch(each) for each in parts):
        return "has a part that is empty or reserved"
    return "is too long" if max(len(os.fsencode(each)) for each in parts) > LONGEST else ""
