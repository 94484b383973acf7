"""The table that decides the defaults: for each task the one of `restore` beside the best of all others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from ...app.options.signature import options
from ...app.restore.presets import preset
from ...app.restore.request import function_of
from ..intervals import Mean, interval
from .table import Group, Line, Row, groups

MOST = 50
"""Evaluations that the others may have; one with a backward pass counts three."""
LEVEL = 0.05
"""Decibels within which the default counts as level with the best."""
_HEAD = (
    "task", "default", "evaluations", "s/picture", "PSNR", "SSIM", "features", "best other in PSNR", "evaluations", "s/picture",
    "margin dB (95 %)", "best other in features", "margin in features (95 %)", "best of deepinv", "evaluations", "s/picture",
    "margin dB (95 %)", "pictures",
)  # fmt: skip


def decided(rows: Iterable[Row]) -> str:
    """Markdown: one table for each set of pictures, and what it comes to. The margins are the default's over the other, paired."""
    parts: dict[tuple[str, ...], list[Group]] = {}
    for group in groups(rows):
        of = group.first
        parts.setdefault((of["prior"], of["weights"], of["data"], str(of["size"])), []).append(group)
    text = []
    for (prior, weights, data, size), some in parts.items():
        lines = [(group, _default(group)) for group in some]
        text += [f"\n**prior {prior} ({weights}), {size} x {size} from {data}**\n"]
        cells = [_cells(group, line) for group, line in lines if line is not None]
        filled = [i for i in range(len(_HEAD)) if any(row[i] != "-" for row in cells)]
        for row in (list(_HEAD), ["---"] * len(_HEAD), *cells):
            text.append("| " + " | ".join(row[i] for i in filled) + " |")
        missing = [group.first["task"] for group, line in lines if line is None]
        text += ["", *([f"Without a row of the default: {', '.join(missing)}."] if missing else [])]
        text += [_summary([(group, line) for group, line in lines if line is not None])]
    return "\n".join(text)


def _default(group: Group) -> Line | None:
    """The row of what `restore` does for the group's operator and noise."""
    of = group.first
    method, chosen, steps = preset(of["operator"].partition(":")[0], of["std"], prior=of["prior"])
    whole = {name: each.default for name, each in options(function_of("method", method)).items()} | chosen
    for line in group.lines:
        held = json.loads(line.first["options"])
        same = chosen.keys() <= held.keys() and all(_same(value, whole.get(key)) for key, value in held.items())
        if line.first["name"] == method and line.first["steps"] == steps and same and line.values["psnr"]:
            return line
    return None


def _same(a: object, b: object) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-6)
    return str(a) == str(b)


def gain(mine: Line, other: Line, column: str = "psnr") -> tuple[Mean, int]:
    """Paired difference mine - other on the pictures that both have, and how many these are."""
    a, b = mine.values[column], other.values[column]
    both = [a[image] - b[image] for image in a if image in b]
    return interval(both), len(both)


def rivals(group: Group, default: Line, *, of_deepinv: bool = False) -> list[Line]:
    """The other lines that may be compared: at most MOST evaluations, within a tenth; those that deepinv made, or all of them."""
    return [
        line for line in group.lines
        if line is not default and line.values["psnr"] and not line.mean("cost").value > 1.1 * MOST
        and (line.first["name"].startswith("deepinv") or not of_deepinv) and gain(default, line)[1]
    ]  # fmt: skip


def _best(default: Line, others: Sequence[Line], column: str = "psnr") -> Line | None:
    known = [line for line in others if gain(default, line, column)[1]]
    key = lambda line: gain(default, line, column)[0].value  # noqa: E731
    return (max if column == "features" else min)(known, key=key, default=None)


def _cells(group: Group, default: Line) -> list[str]:
    best, best_features, theirs = (
        _best(default, rivals(group, default)),
        _best(default, rivals(group, default), "features"),
        _best(default, rivals(group, default, of_deepinv=True)),
    )
    count = {gain(default, line)[1] for line in (best, theirs) if line is not None} or {len(default.values["psnr"])}
    return [
        group.first["task"], default.label, *_cost(default), _plain(default, "psnr", 2), _plain(default, "ssim", 3),
        _plain(default, "features", 3), *_against(default, best), *_against(default, best_features, "features"),
        *_against(default, theirs), " to ".join(map(str, sorted(count))),
    ]  # fmt: skip


def _against(default: Line, other: Line | None, column: str = "psnr") -> list[str]:
    costs = column == "psnr"
    if other is None:
        return ["-"] * (4 if costs else 2)
    value, half = gain(default, other, column)[0]
    digits = 2 if costs else 3
    margin = f"{value:+.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")
    return [other.label, *(_cost(other) if costs else []), margin]


def _cost(line: Line) -> list[str]:
    return [_plain(line, "cost", 0), _plain(line, "seconds", 2)]


def _plain(line: Line, column: str, digits: int) -> str:
    value = line.mean(column).value
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _summary(lines: Sequence[tuple[Group, Line]]) -> str:
    ahead: list[str] = []
    level: list[str] = []
    behind: list[str] = []
    for group, default in lines:
        best = _best(default, rivals(group, default))
        if best is None:
            continue
        value, half = gain(default, best)[0]
        shown = f"{group.first['task']} ({value:+.2f}{'' if math.isnan(half) else f' ± {half:.2f}'}, {best.label})"
        (ahead if value > LEVEL else level if value >= -LEVEL else behind).append(shown)
    words = [
        f"The default is ahead of all others on {len(ahead)} tasks, within {LEVEL} dB of the best of them on {len(level)}"
    ]
    words += [
        f", and behind by more on {len(behind)}: {'; '.join(behind)}." if behind else ", and behind by more on none."
    ]
    return "".join(words)
