"""The network that marks scratches, dust and creases of a scan: a small U-Net whose last layer says how surely each pixel is damage."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .unet import UNet

FILE = Path(__file__).parent / "weights" / "scratches.safetensors"


class Marker(nn.Module):
    """Call: `net(picture)` with pictures `(b, 3, h, w)` in [-1, 1] of any size -> log-odds of damage `(b, 1, h, w)`.

    Nothing in it looks further than `reach` pixels, on a grid of `stride`.

    Args:
        widths: channels at 1/2, 1/4, ... of the picture's resolution.
    """

    kind = "marker"

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96)):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths)}
        self.net = UNet(tuple(widths), blocks=1)
        self.net.head = nn.Conv2d(widths[0], 4, 3, padding=1)
        self.reach, self.stride = self.net.reach, self.net.stride

    def forward(self, picture: Tensor) -> Tensor:
        return self.net.residual(picture, picture.new_full((len(picture),), 0.5))


@cache
def marker() -> Marker:
    """The one that ships, ready to mark."""
    net = Marker()
    net.load_state_dict({name: each.float() for name, each in load_file(FILE).items()})
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
