"""The curves of a training: losses over its steps; of a fine-tuning rewards, held-out rewards, diversity and distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .figures import figure, picture

Points = Sequence[tuple[float, float]]
"""(step, loss)."""


def curve(series: Mapping[str, Points]) -> Image.Image:
    """Losses over steps, the losses on a logarithmic axis. Points that are not positive numbers are left out."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    made = figure(6.8, 3.4)
    axes = made.add_subplot()
    for name, points in series.items():
        shown = {step: loss for step, loss in points if loss > 0 and math.isfinite(loss)}
        if shown:
            alone = "o" if len(shown) == 1 else None
            axes.plot(list(shown), list(shown.values()), label=name, linewidth=1.4, marker=alone)
    if axes.lines:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # within a decade more marks, and as plain numbers
            axes.yaxis.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(10, (1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=9)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(color="#eeeeee")
    return picture(made)


def reward_curves(
    rows: Sequence[Mapping[str, Any]], trained: str, held_out: Sequence[str], kept: int | None = None
) -> Image.Image:
    """Four panels over the updates of the checks; `kept`: the update whose adapter was written, as a line.

    Args:
        rows: of `app.tune.check.measured`, with the `update` of each.
        trained: name of the reward; held_out: of those that were watched.
    """
    made = figure(9.0, 5.2)
    axes = made.subplots(2, 2).flatten()
    at = [row["update"] for row in rows]
    panels: list[tuple[str, Sequence[str]]] = [
        ("reward that is trained on", [trained]),
        ("held-out rewards" if held_out else "look of the pictures", held_out or ["dark", "edges", "saturation"]),
        ("diversity, as a share of the prior's", ["diversity"]),
        ("Fréchet distance to the prior's pictures", ["frechet"]),
    ]
    for each, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            errors = [2 * row.get(f"{name} error", 0.0) for row in rows]
            each.errorbar(at, [row[name] for row in rows], errors, label=name, linewidth=1.4, capsize=2, marker=".")
        each.set_title(title, fontsize=10)
        each.grid(color="#eeeeee")
        if kept is not None:
            each.axvline(kept, color="#888888", linewidth=0.9, linestyle=":")
        if len(names) > 1:
            each.legend(frameon=False, fontsize=8)
        each.set_xlabel("update", fontsize=9)
    axes[2].set_ylim(bottom=0)
    axes[3].set_ylim(bottom=0)
    return picture(made)
