"""LAION's aesthetic predictor: how much people liked pictures with such an embedding, from 1 to 10 (Schuhmann et al. 2022,
arXiv:2210.08402, section 3; christophschuhmann/improved-aesthetic-predictor)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .pretrained import companion, perceptron, pretrained, tensors
from .vision import Eye


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """A head on the unit vector of a picture; differentiable.

    Args:
        model: CLIPVisionModelWithProjection.
        head: `(b, d)` -> `(b, 1)`.
        eye: how the model sees pictures.
    """

    model: Any
    head: nn.Module
    eye: Eye

    def __call__(self, image: Tensor) -> Tensor:
        seen = self.eye(image, self.model.visual_projection.weight)
        unit = torch.nn.functional.normalize(self.model(pixel_values=seen).image_embeds.float(), dim=-1)
        return self.head(unit).squeeze(1).to(image.device)


def aesthetic(
    model: str | Path, head: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Aesthetic:
    """The aesthetic score, for any CLIP and the head that was trained on it.

    Args:
        model: hub name or folder, "openai/clip-vit-large-patch14" for the published heads named "l14".
        head: a .safetensors file that `scripts/convert_reward.py aesthetic` has made of a published pickle, or a folder or hub name
            with one as `head.safetensors`. Linear layers with nothing between them: version 2 (`...-linearMSE`) and version 1 (one layer).

    Raises:
        ValueError: either cannot be loaded, is a pickle, or they do not fit each other.
    """
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    vit = pretrained("aesthetic", CLIPVisionModelWithProjection, model, device=device, dtype=dtype)
    shown = companion("aesthetic", CLIPImageProcessor, model)
    layers = perceptron("aesthetic", tensors("aesthetic", head, "head.safetensors"), vit.config.projection_dim)
    eye = Eye(int(vit.config.image_size), tuple(shown.image_mean), tuple(shown.image_std))
    return Aesthetic(vit, layers.to(device), eye)
