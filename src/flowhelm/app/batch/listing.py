"""Which pictures the inputs of a batch mean: of a folder those right in it, of a glob those that fit, and none that was made before.

A result of an earlier run is no picture to be restored where the picture that it was made from is one: then it is passed over, with
the strips, previews and samples beside it. Restored again it is where its folder is named and that of the photographs is not.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ... import raster
from ..errors import BadInput
from ..files import stacks
from ..files.atomic import FORMATS, READ
from ..restore import record
from . import manifest
from .request import BatchRequest

RECORDS = ("manifest.jsonl", "manifest.damaged.jsonl", "job.json")
_ENDS = ("restored", "strip", "degraded", "preview", "partial", "rerun")
"""Of the files of a run, before their suffix."""


class Listed(NamedTuple):
    """The pictures, path -> name, and what was passed over: results of earlier runs, and files of other kinds."""

    pictures: dict[str, str]
    earlier: list[str]
    others: list[str]

    @property
    def passed_over(self) -> str:
        """What a person is told of it; nothing if there is nothing."""
        kinds = Counter(Path(name).suffix.lower() or "without a suffix" for name in self.others)
        told = [f"{len(self.earlier)} made by earlier runs"] * bool(self.earlier)
        told += [f"{count} {kind}" for kind, count in sorted(kinds.items())]
        return f"passed over: {', '.join(told)}" if told else ""


def listed(request: BatchRequest) -> Listed:
    """In the order of the inputs and, in a folder, of the names; in an archive or a stack of its own order."""
    out, pictures, others = Path(request.out or ""), dict[str, str](), list[str]()
    made = _Earlier()
    chosen = set[str]()  # by a folder or a glob, not by their own names
    for text in request.pictures:
        if not (Path(text).is_dir() or is_glob(text)):  # there or not: what is named is wanted
            inner = stacks.split(text)
            found = [(Path(text).name if inner is None else inner[0].name, text)]
        else:
            found = []
            fixed, pattern = _divided(text)
            # a glob that names the suffix means the archives or stacks; a folder's are not its pictures
            asked = [s for s in stacks.SUFFIXES if pattern and s == Path(text).suffix.lower()]
            apart = out != fixed and out.is_relative_to(fixed)
            files = _files(fixed, pattern or ["*"], made)
            for each in sorted(_once(files) if "**" in pattern else files):
                if apart and out in each.parents:
                    continue
                if each.suffix.lower() in READ or each.suffix.lower() in asked:
                    chosen.add(os.path.normpath(each))
                    found.append((each.relative_to(fixed).as_posix(), str(each)))
                elif not pattern and each.name not in RECORDS and not each.name.endswith((".run.json", record.RESUME)):
                    others.append(each.name)
        for name, path in found:
            for one, photo in _within(name, path, request):
                pictures.setdefault(os.path.normpath(photo), one)
    earlier = [path for path in pictures if path in chosen and made.holds(path, pictures)]
    for path in earlier:
        del pictures[path]
    return Listed(pictures, earlier, others)


def is_glob(text: str) -> bool:
    """Whether it is a pattern: what is there under this very name is none."""
    return bool(glob.has_magic(text) and not Path(text).exists() and stacks.split(text) is None and _divided(text)[1])


def _divided(text: str) -> tuple[Path, list[str]]:
    """The folder to the letter (a part in brackets is one, if it is there) and the pattern of what is below it."""
    path = Path(text)
    if path.is_dir():
        return path, []
    fixed, rest = Path(path.anchor), list(path.parts[bool(path.anchor) :])
    while rest and (not glob.has_magic(rest[0]) or (fixed / rest[0]).exists()):
        fixed /= rest.pop(0)
    return fixed, rest


def _files(folder: Path, pattern: Sequence[str], made: _Earlier) -> Iterator[Path]:
    """The files below a folder that fit; `**` goes into each folder once, whatever links lead to it."""
    first, *rest = pattern
    if first == "**":
        for inner in _folders(folder):
            yield from _files(inner, rest or ["*"], made)
        return
    names = made.look(folder)
    fitting = [name for name in fnmatch.filter(names, first) if first.startswith(".") or not name.startswith(".")]
    for name in fitting:
        path = folder / name
        if rest and path.is_dir():
            yield from _files(path, rest, made)
        elif not rest and path.is_file():
            yield path


def _once(files: Iterator[Path]) -> list[Path]:
    """Of those that links show twice, by what lies at their places, the one with the shortest way."""
    found: dict[tuple[str, str], Path] = {}
    for each in sorted(files, key=lambda path: (len(path.parts), path)):
        found.setdefault((os.path.realpath(each.parent), each.name), each)
    return list(found.values())


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and all below it, those that links lead to at the end; hidden ones are not gone into."""
    waiting, seen, links = [folder], set[str](), list[Path]()
    while waiting or links:
        each = waiting.pop() if waiting else links.pop(0)
        place = os.path.realpath(each)
        if place in seen:
            continue
        seen.add(place)
        yield each
        below = [each / name for name in _names(each) if not name.startswith(".")]
        links += [path for path in below if path.is_symlink() and path.is_dir()]
        waiting += [path for path in reversed(below) if path.is_dir() and not path.is_symlink()]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise BadInput(f"folder {str(folder)!r} cannot be read ({error.strerror}); check its permissions") from None


def _within(name: str, photo: str, request: BatchRequest) -> Iterator[tuple[str, str]]:
    """A picture; or those in an archive or a stack, and the file itself as an item that will fail if something is wrong with it."""
    if not stacks.is_many(photo) or not (inner := stacks.split(photo) or (Path(photo), ""))[0].is_file():
        yield name, photo
        return
    with raster.within(request.budget):
        names, fault = stacks.members(photo, request.range)
    for each in names:
        yield f"{name}:{each}", f"{inner[0]}:{each}"
    if fault is not None:
        yield name, photo


class _Earlier:
    """What runs of before have written into the folders that were looked into."""

    def __init__(self) -> None:
        self.names: dict[Path, list[str]] = {}
        self.sources: dict[str, tuple[str, str]] = {}  # of a result: the path and the name of what it was made from
        self.beside: set[str] = set()  # strips, previews, ...: no results

    def look(self, folder: Path) -> list[str]:
        if folder not in self.names:
            self.names[folder] = names = _names(folder)
            if "manifest.jsonl" in names and (folder / "manifest.jsonl").is_file():
                self._batch(folder)
            for name in names:
                if name.endswith(".run.json"):
                    self._run(folder, name)
        return self.names[folder]

    def holds(self, path: str, pictures: dict[str, str]) -> bool:
        if path in self.beside or Path(path).parent.name.endswith(".posterior"):
            return True
        if path in self.sources:
            photo, name = self.sources[path]
            return os.path.normpath(photo) in pictures or name in pictures.values()
        return self._named(Path(path))

    def _named(self, path: Path) -> bool:
        """By its name, where what it was made from lies beside it: a run that was killed leaves no record."""
        stem, dot, end = path.stem.rpartition(".")
        if not dot or end not in _ENDS:
            return False
        near = self.names.get(path.parent, [])
        return any(name == stem + suffix for name in near for suffix in (*FORMATS, record.RESUME, ".run.json"))

    def _batch(self, folder: Path) -> None:
        try:
            lines = manifest.read(folder / "manifest.jsonl")
        except BadInput:
            return
        for line in lines.values():
            output = folder / line.output
            self.sources[os.path.normpath(output)] = line.photo, line.name
            self.beside.add(os.path.normpath(record.outputs(output)["degraded"]))

    def _run(self, folder: Path, name: str) -> None:
        try:
            settings = json.loads((folder / name).read_bytes())["settings"]
            photo, out = str(settings["photo"]), folder / Path(settings["out"]).name
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return  # of another kind of work, or damaged
        written = record.outputs(out)
        if written["run"].name == name:
            self.sources[os.path.normpath(out)] = photo, Path(photo).name
            self.beside.update(os.path.normpath(each) for what, each in written.items() if what != "out")
