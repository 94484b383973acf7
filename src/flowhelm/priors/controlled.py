"""A transformer that is shown an earlier picture: a control branch beside a frozen `MMDiT`. EcoMapper's second stage, ICML 2025.

    added_i = zero linear_i(copy of layer i (x_t + zero patches(past), past text)),    velocity = MMDiT(x_t, text, added)

The branch is diffusers' `SD3ControlNetModel`, a copy of the first layers, which reads the text of the past picture while the frozen network
reads that of the picture to draw. Its projections begin at zero, so that at first it changes nothing, exactly.

Source: Zhang et al. 2023 (ControlNet), arXiv:2302.05543, of which EcoMapper takes 12 of SD3's 24 layers.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from .mmdit import MMDiT


class Controlled(nn.Module):
    """A velocity network `net(x, t, words, past, past_words)`: past `(b, c, h, w)` as x; both texts `(b, places)`.

    Args:
        net: trained; its weights are frozen here. layers: that are copied, fewer than it has.
        strength: what is added is multiplied by it; 0 leaves the frozen network.
    """

    def __init__(self, net: MMDiT, layers: int = 2, strength: float = 1.0):
        super().__init__()
        from diffusers import SD3ControlNetModel

        most = len(net.transformer.transformer_blocks) - 1
        if not 1 <= layers <= most:
            raise ValueError(f"Controlled: expected 1 to {most} layers, fewer than the network has, got {layers}")
        self.net, self.strength = net.requires_grad_(False), strength
        # a copy, since diffusers writes into the configuration that it is given
        made: Any = SD3ControlNetModel.from_transformer(copy.deepcopy(net.transformer), layers, 0)
        weight = next(net.parameters())
        self.control = nn.Module.to(made, weight.device, weight.dtype).requires_grad_(True)  # diffusers' own `to` warns

    def forward(self, x: Tensor, t: Tensor, words: Tensor, past: Tensor, past_words: Tensor) -> Tensor:
        if past.shape != x.shape:
            raise ValueError(
                f"Controlled: expected a past picture of the same size, {tuple(x.shape)}, got {tuple(past.shape)}"
            )
        added = self.control(
            hidden_states=x, controlnet_cond=past.to(x), conditioning_scale=self.strength, timestep=1000 * (1 - t), return_dict=False,
            **self.net.read(past_words),
        )[0]  # fmt: skip
        out: Tensor = self.net(x, t, words, added)
        return out
