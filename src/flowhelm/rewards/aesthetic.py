"""LAION's aesthetic predictor: how much people liked pictures with such an embedding, from 1 to 10 (Schuhmann et al. 2022,
arXiv:2210.08402, section 3; christophschuhmann/improved-aesthetic-predictor)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..shapes import Image, PerSample
from .clip import Clip, clip
from .pretrained import perceptron, tensors


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """A head on the unit vector of a picture; differentiable.

    Args:
        clip: whose unit vectors.
        head: `(b, d)` -> `(b, 1)`.
    """

    clip: Clip
    head: nn.Module

    def __call__(self, image: Image) -> PerSample:
        return self.head(self.clip.pictures(image)).squeeze(1).to(image.device)


def aesthetic(
    model: str | Path | Clip, head: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Aesthetic:
    """The aesthetic score, for any CLIP and the head that was trained on it. The predictor of LAION, Schuhmann 2022.

    Args:
        model: hub name or folder, "openai/clip-vit-large-patch14" for the published heads named "l14"; or what `clip` has loaded.
        head: a .safetensors file that `scripts/convert_reward.py aesthetic` has made of a published pickle, or a folder or hub name
            with one as `head.safetensors`. Linear layers with nothing between them: version 2 (`...-linearMSE`) and version 1 (one layer).

    Raises:
        ValueError: either cannot be loaded, is a pickle, or they do not fit each other.
    """
    weights = tensors("aesthetic", head, "head.safetensors")
    loaded = model if isinstance(model, Clip) else clip(model, device=device, dtype=dtype)
    if not isinstance(model, Clip):
        loaded.model.text_model = None  # a third of the memory, and nobody else has it
    width = loaded.model.config.projection_dim
    return Aesthetic(loaded, perceptron("aesthetic", weights, width).to(loaded.model.device))
