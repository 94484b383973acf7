"""One self-contained HTML page of a benchmark: tables, quality against cost, pictures, every setting."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...app.show.figures import figure, png
from .gallery import Gallery
from .table import Group, Line, Row, cells_of, groups

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2.5em; border-top: 1px solid #ccc; padding-top: 1em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: .2em .7em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
tr.reference td { color: #777 }
.wide { overflow-x: auto } .plot img { max-width: 100% }
.grid { display: grid; gap: 6px; overflow-x: auto; margin: 1em 0 }
.grid img { width: 100%; image-rendering: pixelated; display: block }
.grid figcaption { font-size: 12px; text-align: center; color: #444 } figure { margin: 0 }
code { background: #f3f3f3; padding: .1em .3em; overflow-wrap: anywhere } td.code { white-space: normal; text-align: left }
.note { color: #666; font-size: 13px }
"""


def report(rows: Sequence[Row], reference: str | None, gallery: Gallery, command: str, by: str = "psnr") -> str:
    """The page of rows as `rows.read` gives them.

    Args:
        reference: of the margins, a label; see `table.groups`.
        gallery: where the pictures are; those that are not there are left out.
        command: what was typed. by: the column of the margins.
    """
    from ... import __version__

    found = groups(rows, reference)
    body = [
        "<h1>Restoration benchmark</h1>",
        f"<p>flowhelm {__version__}: <code>{escape(command)}</code></p>",
        '<p class="note">Means over pictures, ± half of the 95 % interval (Student). The margin is the difference in PSNR to the '
        "reference, picture by picture; wins are the pictures where it is above 0. residual/std is the misfit of the measurement in "
        "units of its noise: 1 is calibrated. Evaluations are of the network, per picture and counted; backward, those that were "
        "differentiated. MiB is the peak of a batch above what was in use before. A task is fair within itself only.</p>",
    ]
    for group in found:
        body += [f"<h2>{escape(group.title)}</h2>", _table(group, by), _failures(group)]
        body += [
            f'<p class="plot"><img alt="quality against cost" src="data:image/png;base64,{_base64(plot(group))}"></p>'
        ]
        body += [_grid(group, gallery)]
    body += ["<h2>Settings</h2>", _settings(found)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Restoration benchmark</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def plot(group: Group) -> bytes:
    """PSNR over evaluations (one that was differentiated counts as three), as a PNG. Baselines, which cost nothing, are lines.

    The bars are the intervals of the margins: those of the means themselves tell how much pictures differ, not methods.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter

    made = figure(9, 4.6)
    axes = made.add_subplot()
    lines = [line for line in group.lines if not math.isnan(line.mean("psnr").value)]
    costly = [line for line in lines if line.first["name"] != "baseline"]
    free = [line for line in lines if line.first["name"] == "baseline"]
    spans = []
    for i, line in enumerate(costly):
        cost, value, margin = max(line.mean("cost").value, 1), line.mean("psnr").value, group.margin(line)
        spread = None if margin is None or math.isnan(margin[0].half) else margin[0].half
        marker = "os^Dv<>PX*"[(i + 3 * (i // 20)) % 10]  # there are twenty colours
        spans += [
            value - min(spread or 0, 2),
            value + min(spread or 0, 2),
        ]  # of few pictures bars may be tall: they are cut
        axes.errorbar(
            cost,
            value,
            spread,
            fmt=marker,
            color=colormaps["tab20"](i % 20),
            capsize=3,
            elinewidth=0.8,
            label=line.label,
        )
    best = max((line.mean("psnr").value for line in free), default=math.nan)
    for i, line in enumerate(free):
        # one that is far below the methods would squeeze them into a corner
        value = line.mean("psnr").value
        if value == best or not costly or value > min(each.mean("psnr").value for each in costly) - 1:
            axes.axhline(value, color="#999999", linewidth=0.8, linestyle=":")
            spans.append(value)
            axes.annotate(line.label, (1, value), xycoords=("axes fraction", "data"), xytext=(-4 - 70 * i, 2), ha="right",
                          textcoords="offset points", fontsize=8, color="#777777")  # fmt: skip
    if costly:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(spans) - 0.5, max(spans) + 0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, ncols=1 + len(costly) // 20)
    axes.set_xlabel("evaluations per picture (+ 2 for each that was differentiated)")
    axes.set_ylabel("PSNR (dB)")
    against = f"; bars: margin over {group.reference.label}, 95 %" if group.reference else ""
    axes.set_title(f"{group.first['task']}{against}", fontsize=10)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    return png(made)


def _table(group: Group, by: str) -> str:
    head, cells = cells_of(group, by)
    lines = ['<div class="wide"><table><tr>' + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for line, shown in zip(group.lines, cells, strict=True):
        kind = ' class="reference"' if line is group.reference else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in shown) + "</tr>")
    against = f'<p class="note">Margins are over {escape(group.reference.label)}.</p>' if group.reference else ""
    return "\n".join([*lines, "</table></div>", against])


def _failures(group: Group) -> str:
    said = {f"{line.label}: {error}" for line in group.lines for error in line.errors}
    return "".join(f'<p class="note">failed: {escape(text)}</p>' for text in sorted(said))


def _grid(group: Group, gallery: Gallery) -> str:
    """A row for each picture that was kept: clean, measured, each method with its PSNR."""
    some = list(dict.fromkeys(row["image"] for line in group.lines for row in line.rows if row["seed"] == 0))
    drawn = []
    for image in some:
        panels: list[tuple[str, str]] = []
        for line in group.lines:
            row = next((r for r in line.rows if r["image"] == image and r["seed"] == 0 and not r["error"]), None)
            if row is None:
                continue
            if not panels:
                panels = [(kind, _picture(gallery, kind, row)) for kind in ("clean", "measured")]
            panels.append((f"{line.label} {row['psnr']:.2f} dB", _picture(gallery, "restored", row)))
        panels = [(caption, source) for caption, source in panels if source]
        if panels:
            figures = "".join(
                f'<figure><img alt="{escape(caption)}" src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'
                for caption, source in panels
            )
            across = min(8, len(panels))
            drawn.append(
                f'<p class="note">{escape(image)}</p><div class="grid" style="grid-template-columns: '
                f'repeat({across}, minmax(96px, 1fr))">{figures}</div>'
            )
    return "\n".join(drawn)


def _picture(gallery: Gallery, kind: Any, row: Mapping[str, Any]) -> str:
    path = gallery.path(kind, row)
    return f"data:image/png;base64,{_base64(path.read_bytes())}" if path.exists() else ""


def _settings(found: Sequence[Group]) -> str:
    lines = [
        '<div class="wide"><table><tr><th>task</th><th>method</th><th>steps</th><th>from</th><th>options</th></tr>'
    ]
    for group in found:
        for line in group.lines:
            if line.first["name"] != "baseline":
                lines.append(_setting(group, line))
    return "\n".join([*lines, "</table></div>"])


def _setting(group: Group, line: Line) -> str:
    row = line.first
    words = ", ".join(f"{name}={value}" for name, value in json.loads(row["options"]).items())
    steps = f"{row['steps']}" + (f" ({row['budget']})" if row["budget"] else "")
    cells = (group.first["task"], f"{line.label} [{row['name']}]" if line.label != row["name"] else line.label, steps)
    return (
        "<tr>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in (*cells, row["settings"]))
        + f'<td class="code">{escape(words)}</td></tr>'
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
