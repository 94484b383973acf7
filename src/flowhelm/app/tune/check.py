"""What a check sees: the same pictures drawn again, their rewards, how different they are, how far from the prior's, and how they look.

A reward that is fooled shows first where nobody optimises: in rewards that were held out, in dark pixels, in edges, in saturation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from ...metrics import frechet_features
from ...step import Reward

MOMENTS = (
    6  # pictures are reduced to so many pixels a side for their Fréchet distance: few numbers beside many pictures
)


@torch.no_grad()
def scores(reward: Reward, pictures: Tensor, device: torch.device) -> Tensor:
    """Rewards `(n,)` float64, of pictures as they would be saved."""
    return reward(pictures.to(device).clamp(-1, 1)).double().cpu()


def spread(pictures: Tensor) -> float:
    """Mean root-mean-square distance of two pictures."""
    flat = pictures.flatten(1).double()
    return float(torch.pdist(flat).mean() / flat.shape[1] ** 0.5)


def distance(pictures: Tensor, others: Tensor) -> float:
    """Squared Fréchet distance of two sets of as many pictures, reduced to few pixels."""
    small = [fn.adaptive_avg_pool2d(each.double(), MOMENTS).flatten(1) for each in (pictures, others)]
    return float(frechet_features(*small))


def looks(pictures: Tensor) -> dict[str, float]:
    """Share of dark pixels (below a tenth of white), strength of edges, mean saturation (0 of grey pictures)."""
    shown = (pictures.clamp(-1, 1) + 1) / 2
    grey = shown.mean(1)
    edges = (grey.diff(dim=1).abs().mean() + grey.diff(dim=2).abs().mean()) / 2
    top = shown.amax(1)
    saturation = ((top - shown.amin(1)) / top.clamp(min=1e-3)).mean()
    return {"dark": float((grey < 0.1).double().mean()), "edges": float(edges), "saturation": float(saturation)}


def measured(pictures: Tensor, base: Tensor, rewards: Mapping[str, Reward], device: torch.device) -> dict[str, Any]:
    """One check, as a row of the table: mean and standard error of each reward, and the rest of the above, the spread as a share."""
    row: dict[str, Any] = {}
    for name, reward in rewards.items():
        values = scores(reward, pictures, device)
        row |= {name: float(values.mean()), f"{name} error": float(values.std() / len(values) ** 0.5)}
    diversity = spread(pictures) / max(spread(base), 1e-12)
    return row | {"diversity": diversity, "frechet": distance(pictures, base)} | looks(pictures)


def verdict(rows: Sequence[Mapping[str, Any]], held_out: Sequence[str], least: float, patience: int) -> str:
    """Why a run should stop, in a sentence; nothing while all is well.

    A held-out reward has fallen where it is below what it was at first by more than two standard errors of the difference, in the last
    `patience` checks.
    """
    if rows[-1]["diversity"] < least:
        return f"the pictures differ by {rows[-1]['diversity']:.2f} of what the prior's do, less than --least-diversity {least:g}"
    recent = rows[-patience:]
    for name in held_out:
        bad = [_fallen(row, rows[0], name) for row in recent]
        if len(rows) > patience and all(bad):
            return f"the held-out reward {name} fell from {rows[0][name]:.4g} to {rows[-1][name]:.4g}"
    return ""


def strange(row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """What to look at, in a sentence: edges more than twice as strong as the prior's, or less than half; else nothing.

    A network that judges pictures, and others like it, can be content with stripes of noise, which are diverse, too.
    """
    times = row["edges"] / max(first["edges"], 1e-12)
    if 0.5 <= times <= 2:
        return ""
    return f"the pictures have {times:.2g} times the edges of the prior's: look at samples/, the reward may be fooled"


def healthy(row: Mapping[str, Any], first: Mapping[str, Any], held_out: Sequence[str], least: float) -> bool:
    """Whether the adapter of this check is worth keeping."""
    return row["diversity"] >= least and not any(_fallen(row, first, name) for name in held_out)


def _fallen(row: Mapping[str, Any], first: Mapping[str, Any], name: str) -> bool:
    error = float((row[f"{name} error"] ** 2 + first[f"{name} error"] ** 2) ** 0.5)
    return bool(row[name] < first[name] - 2 * error)
