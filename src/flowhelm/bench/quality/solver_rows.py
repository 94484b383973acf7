"""What the tables of solvers share: how many steps so many evaluations are, a prior as it is drawn from, and rows that are kept."""

from __future__ import annotations

from pathlib import Path

from ...app.draw.conditions import own_guidance
from ...flow import Flow
from ...priors.bundled import load
from .. import kept

RIVAL = "unipc:variable=snr,rule=bh2"
TWICE = {"heun": 1, "midpoint": 0}
"""Of two evaluations a step; so many are saved at the end."""


def steps_for(words: str, evaluations: int) -> int | None:
    """How many steps cost so many evaluations; None if no number does."""
    name = words.partition(":")[0]
    if name in TWICE:
        steps, rest = divmod(evaluations + TWICE[name], 2)
        return steps if not rest and steps else None
    return evaluations - 1 if words == "pseudo" else evaluations


def told(name: str, rows: list[int], size: int | None, guided: bool = True) -> Flow:
    """A bundled prior as `flowhelm sample` draws from it: picture i shows class i modulo the classes, under the prior's guidance."""
    flow = load(name)
    if size or flow.shape[-1] > 64:
        flow = flow.sized(size or 64, size or 64)
    classes = list(flow.about.get("classes", ()))
    return (
        flow.told([classes[i % len(classes)] for i in rows], guidance=own_guidance(flow) if guided else None)
        if classes
        else flow
    )


class Rows:
    """The rows of a CSV file: what is there is not measured again."""

    def __init__(self, out: Path | None):
        self.out = out
        self.rows = kept.stored(out)

    def has(self, **key: str) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, str]) -> None:
        self.rows.append(row)
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        kept.append(self.out, row)
