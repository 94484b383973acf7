"""What has no gradient: says so instead of being taken for a constant."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import Image


def levels(who: str, image: Image) -> Tensor:
    """8-bit pixels of pictures in [-1, 1], as a file would have them: `(b, h, w, c)` uint8 on the CPU.

    Raises:
        ValueError: a gradient is expected of it.
    """
    refuse_gradient(who, image)
    return ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()


def refuse_gradient(who: str, image: Image) -> None:
    """A method that asks for a gradient would otherwise be told 0, silently."""
    if torch.is_grad_enabled() and image.requires_grad:
        raise ValueError(
            f"{who}: expected a picture without gradient, since this reward has none to give; "
            "steer by particles, or score picture.detach()"
        )
