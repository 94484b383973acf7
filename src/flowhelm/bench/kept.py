"""Rows of a measurement in a CSV file: written as they are finished, so that the same command goes on after a stop."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ..app.files.atomic import put


def stored(path: Path | None) -> list[dict[str, str]]:
    """The rows of a file that may not be there yet. A last line that was cut off while it was written is left out."""
    return [] if path is None or not path.exists() else read(path)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file. Raises typer.BadParameter where there is none."""
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}; give the one that a run of this command has written")
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows at once, in the place of what was there; the columns are those of the first row."""

    def fresh(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        append(temporary, *rows)

    put(path, fresh)


def append(path: Path | None, *rows: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
    """Adds rows, under a line of column names if the file is new; nothing without a path or rows.

    A last line that was cut off is removed first. `columns` names the columns, and their order, where a row may lack some: its cells
    stay empty. Raises a ValueError for a row with other columns than the file has.
    """
    if path is None or not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            file.truncate(end)
        first = whole[: whole.find(b"\n") + 1].decode()
        names = next(csv.reader([first])) if first else list(columns or rows[0])
        lines = io.StringIO()
        writer = csv.DictWriter(lines, names, lineterminator="\r\n" if first.endswith("\r\n") else "\n")
        if not first:
            writer.writeheader()
        writer.writerows(rows)
        file.seek(0, os.SEEK_END)
        file.write(lines.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())
