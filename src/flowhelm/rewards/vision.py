"""Vision transformers as feature extractors: CLIP and DINO of transformers, fed with our pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..shapes import Image
from .pretrained import pretrained

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Eye:
    """How a model's own processor shows it a picture, but differentiably (and without rounding to 8 bits).

    Args:
        size: of the square that the model sees.
        mean, std: of its pixels in [0, 1], `(3,)` each.
        fit: of a picture that is not square: "stretch"; "crop": the middle; "pad": with black.

    Resized by antialiased bicubic interpolation. Pictures are not clamped: outside [-1, 1] a gradient would end.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["stretch", "crop", "pad"] = "crop"

    def __call__(self, image: Image, weight: Tensor) -> Tensor:
        """Pictures `(b, 3, h, w)` in [-1, 1] -> `(b, 3, size, size)`, where `weight` is and of its type."""
        if image.shape[1] != 3:
            raise ValueError(f"rewards: expected pictures of 3 channels, got {image.shape[1]}; repeat a grey one's")
        image = (image.to(weight.device, torch.float32) + 1) / 2
        size, (h, w) = self.size, image.shape[-2:]
        if self.fit == "stretch":
            to = (size, size)
        elif self.fit == "crop":  # processors round the long side down
            to = (size, int(size * w / h)) if h <= w else (int(size * h / w), size)
        else:
            to = (round(h * size / max(h, w)), round(w * size / max(h, w)))
        if to != (h, w):
            image = torch.nn.functional.interpolate(image, to, mode="bicubic", antialias=True, align_corners=False)
        if self.fit == "crop":
            top, left = (to[0] - size) // 2, (to[1] - size) // 2
            image = image[..., top : top + size, left : left + size]
        elif self.fit == "pad":
            rest, beside = size - to[0], size - to[1]
            image = torch.nn.functional.pad(image, (beside // 2, beside - beside // 2, rest // 2, rest - rest // 2))
        mean, std = (torch.tensor(each, device=image.device).view(3, 1, 1) for each in (self.mean, self.std))
        return ((image - mean) / std).to(weight.dtype)


@dataclass(frozen=True, eq=False)
class Vision:
    """A frozen vision transformer over pictures in [-1, 1].

    Args:
        model: CLIPVisionModel, Dinov2Model, ...: takes `pixel_values` and gives `hidden_states`.
        size: of the pictures that it sees; others are resized (bicubic, antialiased).
        mean, std: of its pixels in [0, 1], `(3,)` each.
        specials: tokens before those of patches: 1 for a class token.
    """

    model: Any
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    specials: int = 1

    def seen(self, image: Image) -> Tensor:
        """As the model's own processor would give it, but differentiably: `(b, 3, size, size)`."""
        return Eye(self.size, self.mean, self.std, "stretch")(image, next(self.model.parameters()))

    def patches(self, image: Image, block: int) -> Tensor:
        """Features of the patches after a block (0: of the embedding), without the class token: `(b, n, d)`."""
        states = self.model(pixel_values=self.seen(image), output_hidden_states=True).hidden_states
        if not -len(states) <= block < len(states):
            raise ValueError(f"Vision: expected a block of 0 to {len(states) - 1}, got {block}")
        return states[block][:, self.specials :].to(image.device, image.dtype)


def vision(name: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Vision:
    """A CLIP or DINOv2 model by its hub name or folder, such as "openai/clip-vit-base-patch16" or "facebook/dinov2-base".

    Only safetensors are read. Weights are frozen.

    Raises:
        ValueError: a model of another kind, or one that cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel, CLIPVisionModel

    try:
        config = AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise ValueError(f"vision: cannot load '{name}' ({str(error).splitlines()[0]})") from error
    clip = config.model_type in ("clip", "clip_vision_model")
    if not clip and config.model_type not in ("dinov2", "dinov2_with_registers", "vit"):
        raise ValueError(f"vision: expected a CLIP, DINOv2 or ViT model, got '{config.model_type}'")
    kind = CLIPVisionModel if clip else AutoModel
    model = pretrained("vision", kind, name, device=device, dtype=dtype, spare=("pooler.",))
    specials = 1 + int(getattr(config, "num_register_tokens", 0) or 0)
    # DINOv2 was trained at 518 but is used at 224; its positions are interpolated
    side: Any = model.config.image_size
    size = 224 if config.model_type.startswith("dinov2") else int(side)
    mean, std = CLIP if clip else IMAGENET
    return Vision(model, size, mean, std, specials)
