"""The rows of a benchmark on disk: a CSV file that is appended to, or a folder of Parquet files, one for each append."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import kept

Row = Mapping[str, Any]

FIELDS: dict[str, type] = {
    "prior": str,
    "weights": str,
    "data": str,
    "size": int,
    "protocol": str,
    "task": str,
    "operator": str,
    "std": float,
    "method": str,
    "name": str,
    "options": str,
    "settings": str,
    "steps": int,
    "budget": str,
    "image": str,
    "seed": int,
    "psnr": float,
    "ssim": float,
    "lpips": float,
    "features": float,
    "residual": float,
    "cost": float,
    "evaluations": float,
    "calls": float,
    "backward": float,
    "decoder": float,
    "seconds": float,
    "peak_mib": float,
    "error": str,
}
"""Columns and their types.

prior, weights   name, and the first letters of the weights' sha256
data, size       name of the archive, file or folder; side of the crops in pixels
operator         with its options; std of the noise
method, name     label; the function's name ("baseline" for those without a prior)
options          every option, JSON; settings: where they come from (given, preset or default)
budget           what `steps` were chosen for, if so
image, seed      name of the picture; of its noise
psnr ... ssim    of the restored picture; lpips, features: its distance to the clean one to a network, see `perceptual`
residual         of the measurement, in units of the noise's std (1 is calibrated)
cost             evaluations + 2 for each one that was differentiated
evaluations      of the network, per picture (every particle counts); calls: batched ones; backward: differentiated evaluations
decoder          calls of a decoder; seconds per picture; peak_mib: of the whole batch, above what was in use before
error            why there is no result
"""

KEY = ("prior", "weights", "data", "size", "protocol", "task", "operator", "std",
       "method", "options", "steps", "image", "seed")  # fmt: skip
"""What tells one row from another."""
LATER = ("features",)
"""Columns that files of earlier versions lack: they are read as empty."""


def key(row: Row) -> tuple[Any, ...]:
    return tuple(_plain(FIELDS[name], row[name]) for name in KEY)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows, typed, the last one of each key; none if there is no such file.

    Raises:
        ValueError: any other file, or a folder that is none of Parquet files.
    """
    if not path.exists():
        return []
    try:
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except OSError as error:
        raise _other(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _other(path, "it is no text") from error
    for row in rows:
        if wrong := [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]:
            raise _other(path, f"{wrong[0]} is {row[wrong[0]]}, not a finite number")
    return list({key(row): row for row in rows}.values())


def _other(path: Path, why: str) -> ValueError:
    return ValueError(
        f"rows: expected rows of flowhelm bench in '{path}', got something else ({why[:300]}); choose another file"
    )


def append(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows; they are there whole or not at all, whatever happens meanwhile."""
    listed = [{name: _plain(kind, row.get(name)) for name, kind in FIELDS.items()} for row in rows]
    if not listed:
        return
    if path.suffix == ".parquet":
        _append_parquet(path, listed)
    else:
        _append_csv(path, listed)


def _plain(kind: type, value: Any) -> Any:
    if kind is str:
        return "" if value is None else str(value)
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), 6) if kind is float else kind(value)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    cut = text.rfind("\n") + 1  # the rest is a line that was cut off while it was written
    if not cut and not ",".join(FIELDS).startswith(text):
        raise _other(path, "it has no line")
    reader = csv.reader(io.StringIO(text[:cut]))
    head = next(reader, list(FIELDS))
    if not _ours(head):
        raise _other(path, "it has other columns")
    return [_typed(path, reader.line_num, head, cells) for cells in reader]


def _ours(head: list[str]) -> bool:
    """Whether the columns are those of FIELDS, now or before the LATER ones came."""
    return head in (list(FIELDS), [name for name in FIELDS if name not in LATER])


def _typed(path: Path, line: int, head: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(head):
        raise _other(path, f"line {line}: {len(cells)} cells instead of {len(head)}")
    try:
        held = dict(zip(head, cells, strict=True))
        row = {name: _read(kind, held.get(name, "")) for name, kind in FIELDS.items()}
    except ValueError as error:
        raise _other(path, f"line {line}: {error}") from error
    if empty := [name for name in KEY if row[name] is None]:
        raise _other(path, f"line {line}: no {empty[0]}")
    return row


def _read(kind: type, cell: str) -> Any:
    return kind(cell) if cell or kind is str else None


def _append_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.exists() and (text := path.read_text(encoding="utf-8")).partition("\n")[1]:
        head = text.partition("\n")[0].split(",")
        if head != list(FIELDS) and _ours(head):  # of an earlier version: the whole file gets today's columns
            rows = [*_read_csv(path), *rows]
            kept.write(path, rows)
            return
    kept.append(path, *rows, columns=list(FIELDS))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    parquet = _pyarrow()
    rows: list[dict[str, Any]] = []
    for part in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            table = parquet.read_table(part)
        except ValueError as error:  # what pyarrow's own are
            raise _other(path, str(error)) from error
        if not _ours(table.column_names):
            raise _other(path, "it has other columns")
        rows += [{name: row.get(name) for name in FIELDS} for row in table.to_pylist()]
    return rows


def _append_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet = _pyarrow()
    import pyarrow

    if path.is_file():
        raise ValueError(f"rows: expected a folder of Parquet files, got the file '{path}'; choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in FIELDS.items()])
    number = 1 + max((int(p.stem.removeprefix("part-")) for p in path.glob("part-*.parquet")), default=0)
    part = path / f".part-{number:06d}"
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), part)
    part.replace(path / f"part-{number:06d}.parquet")


def _pyarrow() -> ModuleType:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(
            "rows: Parquet needs pyarrow, which is not installed; pip install 'flowhelm[bench]', or write .csv"
        ) from error
    return parquet
