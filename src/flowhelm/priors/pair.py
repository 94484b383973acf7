"""The two networks of a posterior-mean rectified flow in one: a regressor, and a velocity that begins at its noised means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .unet import UNet


class Pair(nn.Module):
    """A regressor and a velocity, both small U-Nets for pictures of any size.

    Args:
        widths, blocks: of both U-Nets. spread: standard deviation of the noise between mean and source, pictures in [-1, 1].
        unit: about the standard deviation of clean - source; what the velocity is measured in. channels: of the picture.

    Call: `net(x, t)`, the velocity `(b, c, h, w)` at x and t `(b,)`. `net.mean(measured)` is the regressor. Both begin as nothing
    at all: the mean is the measured picture, the velocity 0.
    """

    kind = "paired"

    def __init__(
        self,
        widths: tuple[int, ...] = (24, 48, 96),
        blocks: int = 2,
        spread: float = 0.1,
        unit: float = 0.2,
        channels: int = 3,
    ):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "blocks": blocks, "spread": spread, "unit": unit}
        self.config["channels"] = channels
        self.spread, self.unit = spread, unit
        self.regressor = UNet(widths, blocks, channels)
        self.field = UNet(widths, blocks, channels)
        self.stride, self.reach, self.null = self.field.stride, self.field.reach, ()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unit * self.field.residual(x / self.field.data_std, t)

    def mean(self, measured: Tensor) -> Tensor:
        """The mean of what pictures `(b, c, h, w)` may have been before they were damaged."""
        half = torch.full((len(measured),), 0.5, dtype=measured.dtype, device=measured.device)
        return measured + self.unit * self.regressor.residual(measured / self.regressor.data_std, half)
