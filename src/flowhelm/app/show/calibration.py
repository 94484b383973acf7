"""The picture of a calibration: coverage, ranks of one quantity, ranks of all as ECDFs, and TARP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...metrics.calibration import TARP, Judged
from ..files import atomic as files
from .figures import figure

_GREY = "#d9d9d9"


def plot(path: Path, title: str, judged: Judged, story: Mapping[str, Any], truths: int, samples: int) -> None:
    """Writes a PNG. All bands hold a right sampler with 95 %."""
    made = figure(9.6, 8.4)
    made.suptitle(title, fontsize=11)
    axes = made.subplots(2, 2)
    held, one = story["coverage"], axes[0, 0]
    nominal, band = (torch.tensor(held[name], dtype=torch.float64) for name in ("nominal", "binomial 95 %"))
    one.fill_between(nominal, nominal - band, nominal + band, color=_GREY)
    one.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    one.plot(nominal, held["held"], marker="o", markersize=3, color="#1f77b4")
    one.set(
        title="Intervals of pixels", xlabel="of which share they are (nominal)", ylabel="share of truths that they hold",
        xlim=(0, 1), ylim=(0, 1),
    )  # fmt: skip
    one.text(
        0.97, 0.04, "above: under-confident\nbelow: over-confident", ha="right", fontsize=8, transform=one.transAxes
    )

    quantities = [name for name in judged.ranks if name != TARP]
    worst = min(quantities, key=lambda name: judged.tests[name].p)
    bins = min(10, samples + 1)
    owner = torch.arange(samples + 1) * bins // (samples + 1)
    counts = torch.zeros(bins).index_add_(0, owner, torch.tensor(story["ranks"][worst], dtype=torch.float32))
    sizes = torch.bincount(owner, minlength=bins).double() / (samples + 1)
    two, middle = axes[0, 1], torch.arange(bins) + 0.5
    spread = 1.96 * (truths * sizes * (1 - sizes)).sqrt()
    two.bar(middle.tolist(), (2 * spread).tolist(), 1.0, (truths * sizes - spread).tolist(), color=_GREY)
    two.bar(middle.tolist(), counts.tolist(), 0.8, fill=False, edgecolor="#1f77b4", linewidth=1.4)
    two.set(
        title=f"Rank of the truth among the samples: {worst}\np = {judged.tests[worst].p:.2g}, the least",
        xlabel="rank, from lowest to highest", ylabel="truths", xticks=[],
    )  # fmt: skip

    places = torch.arange(1, samples + 1) / (samples + 1)
    limit = torch.tensor(story["ecdf band 95 %"])
    three = axes[1, 0]
    three.fill_between(places, -limit, limit, color=_GREY)
    three.axhline(0, color="black", linewidth=0.8)
    for name in quantities:
        ecdf = torch.tensor(story["ranks"][name]).cumsum(0)[:-1] / truths
        three.plot(places, ecdf - places, label=f"{name} (p = {judged.tests[name].p:.2g})", linewidth=1.3)
    three.set(title="Ranks (SBC): ECDF less uniform", xlabel="rank / (samples + 1)", ylabel="difference", xlim=(0, 1))
    three.legend(fontsize=7, frameon=False)

    four, ecdf = axes[1, 1], torch.tensor(story["ranks"][TARP]).cumsum(0)[:-1] / truths
    four.fill_between(places, places - limit, places + limit, color=_GREY)
    four.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    four.plot(places, ecdf, color="#d62728", marker="o", markersize=3)
    four.set(
        title=f"TARP, p = {judged.tests[TARP].p:.2g}", xlabel="credibility", ylabel="expected coverage", xlim=(0, 1), ylim=(0, 1)
    )  # fmt: skip
    files.put(path, lambda temporary: made.savefig(temporary, format="png"))
