"""The manifest of a batch: one line for each item that was done or has failed; an item's last line counts.

A line is JSON that was written by this program or by anybody: one that is damaged counts as none, so that its item is made
again, and is set aside.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter, field_validator

from ..errors import BadInput
from ..files.atomic import settle
from ..options import own
from ..options.request import Request
from ..restore.record import RestoreFile


class Line(Request):
    """Of an item."""

    name: str
    photo: str
    seed: int
    sample: int = Field(ge=0)
    output: str = Field(description="The result, below the folder of the batch.")
    key: str
    began: str
    ended: str

    @field_validator("output")
    @classmethod
    def _below(cls, output: str) -> str:
        if not output or "\0" in output or PurePosixPath(output).is_absolute() or ".." in Path(output).parts:
            raise ValueError(f"expected a path below the folder of the batch, got {output!r}")
        return output


class DoneLine(Line, RestoreFile):
    """Of an item that was made; by it the item can be made again."""

    status: Literal["done"] = "done"
    files: dict[str, str]


class FailedLine(Line):
    """Of an item that could not be made."""

    status: Literal["failed"] = "failed"
    reason: str


ASIDE = "manifest.damaged.jsonl"
"""Where damaged lines are kept."""
_HOW = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
Lines = dict[str, DoneLine | FailedLine]
"""The last line of each item, by its output."""
_LINE: TypeAdapter[DoneLine | FailedLine] = TypeAdapter(Annotated[DoneLine | FailedLine, Field(discriminator="status")])


class Damaged(NamedTuple):
    """A line that cannot be read: its number, its bytes, and the item's output if that much can be told."""

    number: int
    text: bytes
    output: str | None


def lines_of(data: bytes) -> tuple[Lines, list[Damaged]]:
    """The lines by output, and the damaged ones; of an item whose last line is damaged there is none."""
    found: Lines = {}
    damaged = []
    for number, text in enumerate(data.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = _LINE.validate_json(text, strict=True)
        except (ValueError, RecursionError):
            output = _output_of(text)
            damaged.append(Damaged(number, text, output))
            found.pop(output or "", None)
        else:
            found[line.output] = line
    return found, damaged


def _output_of(text: bytes) -> str | None:
    told = re.search(rb'"output": ?("(?:[^"\\]|\\.)*")', text)
    with suppress(ValueError):
        return str(json.loads(told[1])) if told else None
    return None


def read(path: Path) -> Lines:
    """Raises BadInput."""
    try:
        return lines_of(path.read_bytes())[0]
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}); name the manifest.jsonl of a batch") from None


def code(path: Path, name: str) -> list[str]:
    """The code that the lines of an item name, by its picture's name or its output."""
    found: list[str] = []
    for text in path.read_bytes().split(b"\n") if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and name in (line.get("name"), line.get("output")):
                found += own.words_of(line.get("settings"))
    return list(dict.fromkeys(found))


@contextmanager
def opened(path: Path) -> Iterator[tuple[Lines, list[Damaged], Callable[[DoneLine | FailedLine], None]]]:
    """The last line of each item, the damaged lines, which are set aside, and what adds a line: whole or not at all. Held against a
    second batch. Raises BadInput."""
    try:
        handle = os.open(path, _HOW, 0o666)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written to ({error.strerror}); choose another out") from error
    try:
        _hold(handle, path)
        _fresh(path).unlink(missing_ok=True)  # which a kill may have left
        data = path.read_bytes()
        os.ftruncate(handle, data.rfind(b"\n") + 1)  # what a kill or a full disk has cut

        def add(line: DoneLine | FailedLine) -> None:
            text = json.dumps(line.stored(), sort_keys=True, allow_nan=False).encode() + b"\n"
            before = os.fstat(handle).st_size
            try:
                if os.write(handle, text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise

        lines, damaged = lines_of(data[: data.rfind(b"\n") + 1])
        if damaged:
            handle = _set_aside(handle, path, data, damaged)
        yield lines, damaged, add
    finally:
        os.close(handle)


def _set_aside(handle: int, path: Path, data: bytes, damaged: Sequence[Damaged]) -> int:
    """The damaged lines go into a file of their own, and a manifest without them takes the place of this one; its handle, held too."""
    with open(path.with_name(ASIDE), "ab") as file:
        file.write(b"".join(each.text + b"\n" for each in damaged))
        file.flush()
        os.fsync(file.fileno())
    numbers = {each.number for each in damaged}
    kept = [text for number, text in enumerate(data.split(b"\n")[:-1], 1) if number not in numbers]
    fresh = _fresh(path)
    try:
        fresh.write_bytes(b"".join(text + b"\n" for text in kept))
        settle(fresh)
        other = os.open(fresh, _HOW)
        _hold(other, path)
        os.replace(fresh, path)
    except OSError:  # they are passed over all the same, and said again next time
        fresh.unlink(missing_ok=True)
        return handle
    os.close(handle)
    settle(path.parent)
    return other


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def now() -> str:
    """The time, for a line."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _hold(handle: int, path: Path) -> None:
    """Until the handle is closed, by a kill too; where there are no such locks, two batches at once are the user's to avoid."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(
            f"another batch is writing to {str(path.parent)!r}; wait for it, or choose another out"
        ) from None
    except OSError:
        return
