"""Sources made for the data: norm alignment. SourceFM, Lee, Kim & Lee 2025, arXiv:2512.18184.

    ratio = E|source| / E|clean|
    train on ratio * clean from the full normal source;  sample;  divide by the ratio

Its other half, pruned starts, needs no training and is `guide.pruned`. The paper's finding to keep in mind: train on the
full normal source, whatever the starts are afterwards.

Paper   CIFAR-10: better from about 40 evaluations on, worse at 5 and 10 (table 6). A scaled clean state is written here as
        a path, alpha = ratio t: the mixture, the target and the loss are those of ratio * clean, and the flow's clean
        end is the clean state itself, so nothing is left to divide. `on_path(flow, linear)` gives the ordinary prior back:
        alignment is a shift of logit t by log ratio, with the network's input and target rescaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..path import Coeffs


def norm_ratio(clean: Tensor) -> float:
    """E|source| / mean|clean| over clean states `(n, ...)`; the source is standard normal, its norm chi of d degrees.

    E chi_d = sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2), which is sqrt(d) (1 - 1 / (4 d) + ...).
    """
    d = clean[0].numel()
    norm = float(clean.flatten(1).norm(dim=1).double().mean())
    if not norm > 0:
        raise ValueError(f"norm_ratio: expected clean states of a positive mean norm, got {norm}")
    return math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2)) / norm


@dataclass(frozen=True)
class NormAligned:
    """The linear path to ratio * clean: x_t = (1 - t) source + t ratio clean.

    Args:
        ratio: > 0, that of `norm_ratio`.

    Train with `NetFlow(net, shape, path=NormAligned(ratio))`. The state at t = 1 is ratio * clean: read a sample off
    `Step.clean` (or `flow.ends`), or use `guide.on_path(flow, path.linear)` where a method wants alpha(1) = 1.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"NormAligned: expected a ratio > 0, got {self.ratio}")

    def __call__(self, t: Tensor) -> Coeffs:
        one = torch.ones_like(t)
        return Coeffs(self.ratio * t, 1 - t, self.ratio * one, -one)
