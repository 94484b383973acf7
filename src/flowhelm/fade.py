"""A faded print: where its black and its white have come to in each channel, estimated cautiously, and undone.

    y_c = low_c + (high_c - low_c) x_c,    low_c, high_c = the 0.2 % and 99.8 % quantiles of the channel

Both ends must have moved, as they do when dyes fade: fog has a white, night a black. Where they have moved little, a part is undone.
The ends of a channel differ from the middle channel's by LEAN at most, a contrast grows by at most MOST. Of a curve only its two ends are
known; middle tones are not guessed (a grey mean is worse than none, see the table of `python -m flowhelm.bench.quality.fade`).
"""

from __future__ import annotations

import torch
from torch import Tensor

TAIL = 0.002
BLACK, WHITE, RAMP = 0.08, 0.91, 0.05
"""Of [0, 1]: from where black, and white, count as moved, and how much further they are wholly believed."""
LEAN, SPARE, MOST = 0.12, 0.01, 3.0

SURE = 0.3
"""Of [-1, 1]: how far both ends must have moved."""

Curve = list[tuple[float, float]]
"""The values in [-1, 1], one pair for each channel, that become -1 and 1."""


def curve_of(pixels: Tensor) -> Curve | None:
    """Of `(1, c, h, w)` in [-1, 1]; None where it does not look faded."""
    rows = pixels[0].flatten(1).double().sort(1).values / 2 + 0.5
    last = rows.shape[1] - 1
    low, high = (rows[:, round(share * last)] for share in (TAIL, 1 - TAIL))
    black, white = low.median(), high.median()
    belief = ((black - BLACK) / RAMP).clamp(0, 1) * ((WHITE - white) / RAMP).clamp(0, 1)
    if not belief:
        return None
    low = (low.clamp(black - LEAN, black + LEAN) - SPARE).clamp(min=0) * belief
    high = 1 - (1 - (high.clamp(white - LEAN, white + LEAN) + SPARE).clamp(max=1)) * belief
    short = (1 / MOST - (high - low)).clamp(min=0) / 2
    ends = torch.stack([low - short, high + short], 1) * 2 - 1
    return [(round(float(a), 4), round(float(b), 4)) for a, b in ends]


def is_sure(curve: Curve | None) -> bool:
    """Whether a picture of which nothing is said is taken for faded: both ends have moved far, and the channels apart."""
    if curve is None:
        return False
    low, high = torch.tensor(curve).T
    return bool(low.median() > SURE - 1 and high.median() < 1 - SURE and (high - low).amin() < 2 - 2.5 * SURE)


def unfaded(pixels: Tensor, curve: Curve | None) -> Tensor:
    """`(1, c, h, w)` in [-1, 1] with black and white where they belong."""
    if curve is None:
        return pixels
    low, high = pixels.new_tensor(curve).T[..., None, None]
    whole: Tensor = (pixels - low) * (2 / (high - low)) - 1
    return whole.clamp(-1, 1)


def sentence(curve: Curve | None) -> str:
    """What a person is told."""
    if curve is None:
        return "the picture does not look faded, and its colours are left as they are"
    gains = [2 / (high - low) for low, high in curve]
    names = ("red", "green", "blue") if len(gains) == 3 else ("grey",)
    told = ", ".join(f"{name} {gain:.2f}" for name, gain in zip(names, gains, strict=True))
    return f"the fading was undone: contrast times {told}"
