"""Means over pictures with 95 % intervals, and margins paired with a reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ..intervals import Mean, interval

Row = Mapping[str, Any]
GROUP = ("prior", "weights", "data", "size", "protocol", "task", "operator", "std")
"""What is compared only within itself."""
METHOD = ("method", "options", "steps")


class Line(NamedTuple):
    """One method on one task. `values` are its pictures' own: column -> picture -> mean over seeds."""

    label: str
    rows: Sequence[Row]
    values: Mapping[str, Mapping[str, float]]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def errors(self) -> list[str]:
        return [row["error"] for row in self.rows if row["error"]]

    def mean(self, column: str) -> Mean:
        return interval(list(self.values[column].values()))


class Group(NamedTuple):
    """One task: its methods in the order of the rows, and the reference of the margins."""

    first: Row
    lines: list[Line]
    reference: Line | None

    @property
    def title(self) -> str:
        of = self.first
        pictures = max(len(line.values["psnr"]) for line in self.lines)
        return (
            f"{of['task']} ({of['operator']}, noise {of['std']:g}), prior {of['prior']}, {pictures} pictures of "
            f"{of['size']} x {of['size']} from {of['data']}"
        )

    def margin(self, line: Line, column: str = "psnr") -> tuple[Mean, int, int] | None:
        """Paired difference to the reference, how often it is the better, and of how many; None for the reference itself."""
        if self.reference is None or line is self.reference:
            return None
        mine, theirs = line.values[column], self.reference.values[column]
        gains = [mine[image] - theirs[image] for image in mine if image in theirs]
        better = sum(gain < 0 if column in DISTANCES else gain > 0 for gain in gains)
        return interval(gains), better, len(gains)


DISTANCES = ("lpips", "features")
"""Columns in which less is better."""
_COLUMNS = (
    "psnr",
    "ssim",
    "lpips",
    "features",
    "residual",
    "cost",
    "evaluations",
    "backward",
    "decoder",
    "seconds",
    "peak_mib",
)


def groups(rows: Iterable[Row], reference: str | None = None) -> list[Group]:
    """Rows by task. `reference` is a label; if it is not given (or not there), the best baseline, else the best of all.

    Raises:
        ValueError: a reference that no row has.
    """
    rows = list(rows)
    if reference is not None and reference not in {row["method"] for row in rows}:
        known = ", ".join(dict.fromkeys(row["method"] for row in rows))
        raise ValueError(f"reference: expected one of {known or 'no methods'}, got '{reference}'")
    found = []
    for some in _by(rows, GROUP):
        lines = _lines(some)
        best = sorted((line for line in lines if line.values["psnr"]), key=lambda line: -line.mean("psnr").value)
        chosen = [line for line in best if line.first["method"] == reference]
        chosen = chosen or [line for line in best if line.first["name"] == "baseline"] or best
        found.append(Group(some[0], lines, chosen[0] if chosen else None))
    return found


def table(rows: Iterable[Row], reference: str | None = None, by: str = "psnr") -> str:
    """Markdown, one table per task. by: the column that margins and wins are counted in."""
    text = []
    for group in groups(rows, reference):
        against = f", margin over {group.reference.label}" if group.reference else ""
        text += [f"\n**{group.title}{against}**\n"]
        head, cells = cells_of(group, by)
        text += ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
        text += ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join(text)


def cells_of(group: Group, by: str = "psnr") -> tuple[list[str], list[list[str]]]:
    """Head and lines of a group's table; columns that nothing fills are left out."""
    columns = {
        "method": lambda line: line.label,
        "steps": lambda line: str(line.first["steps"] or "-"),
        "pictures": lambda line: str(len(line.values["psnr"])),
        "PSNR": lambda line: line.mean("psnr").shown(2),
        "SSIM": lambda line: _plain(line, "ssim", 3),
        "LPIPS": lambda line: _plain(line, "lpips", 3),
        "features": lambda line: _plain(line, "features", 3),
        "residual/std": lambda line: _plain(line, "residual", 2),
        "evaluations": lambda line: _plain(line, "evaluations", 0),
        "backward": lambda line: _plain(line, "backward", 0),
        "decoder": lambda line: _plain(line, "decoder", 0) if line.mean("decoder").value else "-",
        "s/picture": lambda line: _plain(line, "seconds", 2),
        "MiB": lambda line: _plain(line, "peak_mib", 0),
        f"margin {_UNITS[by]} (95 %)": lambda line: _margin(group, line, by),
        "wins": lambda line: _wins(group, line, by),
        "failed": lambda line: str(len(line.errors) or "-"),
    }
    whole = {name: [show(line) for line in group.lines] for name, show in columns.items()}
    if len(set(whole["pictures"])) == 1:  # which the title says
        del whole["pictures"]
    whole = {name: values for name, values in whole.items() if name == "method" or set(values) != {"-"}}
    return list(whole), [list(line) for line in zip(*whole.values(), strict=True)]


def _lines(rows: list[Row]) -> list[Line]:
    found = []
    for some in _by(rows, METHOD):
        good = [row for row in some if not row["error"]]
        values: dict[str, dict[str, float]] = {}
        for column in _COLUMNS:
            by_image: dict[str, list[float]] = {}
            for row in good:
                if row[column] is not None:
                    by_image.setdefault(row["image"], []).append(row[column])
            values[column] = {image: fmean(of) for image, of in by_image.items()}
        found.append(Line(some[0]["method"], some, values))
    # one label with several settings
    count = {label: [line.label for line in found].count(label) for label in {line.label for line in found}}
    return [
        line._replace(label=f"{line.label} ({i})") if count[line.label] > 1 else line for i, line in enumerate(found, 1)
    ]


def _by(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Row]]:
    parts: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row[name] for name in columns), []).append(row)
    return list(parts.values())


def _plain(line: Line, column: str, digits: int) -> str:
    value = line.mean(column).value
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


_UNITS = {"psnr": "dB", "ssim": "SSIM", "lpips": "LPIPS", "features": "features"}


def _margin(group: Group, line: Line, by: str) -> str:
    found = group.margin(line, by)
    if found is None or math.isnan(found[0].value):
        return "-"
    value, half = found[0]
    digits = 2 if by == "psnr" else 3
    return f"{value:+.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _wins(group: Group, line: Line, by: str) -> str:
    found = group.margin(line, by)
    return "-" if found is None or not found[2] else f"{found[1]}/{found[2]}"
