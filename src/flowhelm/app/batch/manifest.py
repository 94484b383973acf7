"""The manifest of a batch: one line for each item that was done or has failed; an item's last line counts.

A line is JSON that was written by this program or by anybody: one that is damaged counts as none, so that its item is made again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, field_validator

from ..errors import BadInput
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


Lines = dict[str, DoneLine | FailedLine]
"""The last line of each item, by its output."""
_LINE: TypeAdapter[DoneLine | FailedLine] = TypeAdapter(Annotated[DoneLine | FailedLine, Field(discriminator="status")])


def lines_of(data: bytes) -> Lines:
    """The lines by output; one that is damaged counts as none."""
    found: Lines = {}
    for text in data.split(b"\n"):
        with suppress(ValueError, RecursionError):
            line = _LINE.validate_json(text, strict=True)
            found[line.output] = line
    return found


def read(path: Path) -> Lines:
    """Raises BadInput."""
    try:
        return lines_of(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}); name the manifest.jsonl of a batch") from None


@contextmanager
def opened(path: Path) -> Iterator[tuple[Lines, Callable[[DoneLine | FailedLine], None]]]:
    """The last line of each item, and what adds one: whole or not at all. Held against a second batch."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _hold(handle, path)
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

        yield lines_of(data), add
    finally:
        os.close(handle)


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
