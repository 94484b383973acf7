"""Rewards without a model: brightness and colour."""

from __future__ import annotations

import torch

from ..shapes import Image, PerSample


def brightness(image: Image) -> PerSample:
    """Mean luminance in [-1, 1] (ITU-R BT.601 weights; one channel is taken as it is). Differentiable."""
    if image.shape[1] == 1:
        return image.mean((1, 2, 3))
    _rgb("brightness", image)
    return (image.mean((2, 3)) * image.new_tensor([0.299, 0.587, 0.114])).sum(1)


def colourfulness(image: Image) -> PerSample:
    """How colourful, in 8-bit levels: 0 for grey, 15 slightly, 33 moderately, 59 quite, 109 extremely. Differentiable.

    Hasler & Süsstrunk 2003, "Measuring colourfulness in natural images", eq. for M(3): |std| + 0.3 |mean| of the opponent
    channels R - G and (R + G) / 2 - B. At pure grey its gradient is taken to be 0.
    """
    _rgb("colourfulness", image)
    red, green, blue = (127.5 * image).unbind(1)
    opponent = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)
    mean = opponent.mean(2, keepdim=True)
    # norms, and no square roots of variances: they have a gradient where there is no colour
    spread = torch.linalg.vector_norm(opponent - mean, dim=(1, 2)) / opponent.shape[2] ** 0.5
    return spread + 0.3 * torch.linalg.vector_norm(mean, dim=(1, 2))


def _rgb(who: str, image: Image) -> None:
    if image.shape[1] != 3:
        raise ValueError(f"{who}: expected pictures of 3 channels, got {image.shape[1]}")
