"""How much of a denoised picture to keep, by Stein's unbiased estimate of its error (Stein 1981, doi:10.1214/aos/1176345632).

Where a prior is right, its posterior mean D of y = clean + r noise takes out |y - D|^2 = r^2 (1 - divergence of D) in expectation, which
is Tweedie's formula. Where it takes out more, in grass or fabric that it has not seen, say, it took texture for noise, and
y + share (D - y) with share = r^2 (1 - divergence) / |y - D|^2 has the least error that Stein's estimate knows of.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

from .flow import Flow
from .path import at
from .shapes import State, Time

WINDOW = 33
"""Pixels of a side that a share is an average over."""
SLACK = 1.15
"""So much more than expected may be taken out before less is kept: the noise is never known exactly, and averages of windows scatter. Noise
that is 5 % stronger than r has at most 1.05^2 = 1.10 times the power."""
STEP = 0.1
"""Of the probe, in units of the noise."""


@torch.no_grad()
def trusted(flow: Flow, noisy: State, clean: State, t: Time, one: State | None = None) -> State:
    """The denoised picture as far as it can be trusted: noisy + share (clean - noisy), `(b, c, h, w)`. 1 evaluation.

    Args:
        noisy: `(b, c, h, w)`, clean pictures with white noise of standard deviation sigma / alpha at t; clean: what `flow` makes of it,
            `flow.ends(alpha noisy, t).clean`.
        one: what `flow` makes of it, where clean is a mean of several such estimates: its divergence stands for theirs.

    The share is one for each place, in [0, 1]. The divergence is that along one vector of random signs, the same for every picture
    (Ramani, Blu and Unser 2008, doi:10.1109/TIP.2008.2001404).
    """
    c = at(flow.path, t, noisy)
    r = c.sigma / c.alpha
    draw = torch.Generator().manual_seed(0)
    signs = (2.0 * torch.randint(0, 2, noisy.shape[1:], generator=draw) - 1).to(noisy)
    moved = flow.ends(c.alpha * (noisy + STEP * r * signs), t).clean
    divergence = _around(signs * (moved - (clean if one is None else one)) / (STEP * r))
    taken = _around((noisy - clean).square()) / r**2
    share = (SLACK * (1 - divergence).clamp(0, 1) / taken.clamp(min=1e-9)).clamp(max=1)
    return torch.lerp(noisy, clean, share)


def _around(values: Tensor) -> Tensor:
    """Means over channels and windows, `(b, 1, h, w)`; beyond the border the picture is mirrored."""
    rows, columns = (min(WINDOW // 2, side - 1) for side in values.shape[-2:])
    wide = fn.pad(values.mean(1, keepdim=True), (columns, columns, rows, rows), mode="reflect")
    return fn.avg_pool2d(fn.avg_pool2d(wide, (2 * rows + 1, 1), 1), (1, 2 * columns + 1), 1)
