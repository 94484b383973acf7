"""Flow-score matching: a network learns the slope of a normalising flow's log density. Gu et al. 2025 (STARFlow-V), arXiv:2511.20462.

    noisy <- clean + noise e,  e ~ N(0, 1)
    loss = | net(noisy) - noise grad log p(noisy) |^2           the same as noise^-2 | cleaned - Tweedie's |^2

Needs   a `Bijection` that is trained, a network over pictures or videos, batches of clean pictures
Cost    1 forward and backward of the flow for the slope, 1 forward and backward of the network
Paper   of a video the network sees one frame ahead; it is trained beside the flow, on the gradient that its backward has anyway. Here
        afterwards, of a flow that is frozen. `target="noise"` is the plain denoiser, its rival: | net(noisy) + e |^2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..bijection import Bijection, Cleaner
from ..grad import value_and_grad
from .data import Batch
from .flow_matching import normal


def flow_score(
    cleaner: Cleaner,
    batch: Batch,
    generator: torch.Generator,
    *,
    flow: Bijection,
    target: Literal["score", "noise"] = "score",
) -> Tensor:
    """The loss of every row `(b,)`: mean square over a picture's numbers; see the module's card. arXiv:2511.20462.

    Args:
        cleaner: what is trained. flow: whose density it learns; it is told the batch's conditions.
        target: `score`, or `noise`, which needs no flow.
    """
    e = normal(batch.clean, generator)
    noisy = batch.clean + cleaner.noise * e
    if target == "noise":
        wanted = -e
    else:
        told = replace(flow, condition=batch.condition) if flow.null and batch.condition else flow
        wanted = cleaner.noise * value_and_grad(told.log_prob, noisy)[1]
    return (cleaner.net(noisy) - wanted).square().flatten(1).mean(1)
