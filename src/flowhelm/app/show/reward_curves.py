"""The curves of a fine-tuning: rewards, held-out rewards, diversity and distance over the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .figures import figure, picture


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
