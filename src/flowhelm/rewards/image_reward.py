"""ImageReward (Xu et al. 2023, arXiv:2304.05977): what people preferred, told by BLIP and a small head.

states = BLIP text encoder(prompt, attending to BLIP picture encoder(picture))
reward = (head(states of the first token) - 0.1672) / 1.0333
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..shapes import Image, PerSample
from .pretrained import companion, perceptron, pretrained, tensors
from .rows import owners, texts
from .vision import CLIP, Eye

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's values on its authors' data, so that the reward has mean 0 and variance 1 there."""
LENGTH = 35
"""Tokens that are read of a prompt."""
UNUSED = ("itm_head.", "vision_proj.", "text_proj.")


@dataclass(frozen=True, eq=False)
class ImageReward:
    """ImageReward of pictures and the prompts given; roughly standard normal, differentiable.

    Args:
        model: BlipForImageTextRetrieval, of which both encoders are used.
        head: of the first token's state.
        eye: how it sees pictures.
        tokens, mask: of the prompts, `(p, 35)` each.
    """

    model: Any
    head: nn.Module
    eye: Eye
    tokens: Tensor
    mask: Tensor

    def __call__(self, image: Image) -> PerSample:
        whose = owners("ImageReward", len(self.tokens), len(image))
        patches = self.model.vision_model(pixel_values=self.eye(image, self.model.itm_head.weight)).last_hidden_state
        states = self.model.text_encoder(
            input_ids=self.tokens[whose],
            attention_mask=self.mask[whose],
            encoder_hidden_states=patches,
            encoder_attention_mask=patches.new_ones(patches.shape[:2], dtype=torch.long),
        ).last_hidden_state
        return ((self.head(states[:, 0].float()).squeeze(1) - MEAN) / STD).to(image.device)

    def rows(self, index: Tensor, total: int) -> Self:
        """The same reward for some rows of a batch of `total`."""
        whose = owners("ImageReward", len(self.tokens), total)[index.cpu()]
        return replace(self, tokens=self.tokens[whose], mask=self.mask[whose])

    def told(self, tokenizer: Any, prompts: Sequence[str]) -> Self:
        """Of other prompts, by the model's tokenizer."""
        read = tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).to(self.model.device)
        return replace(self, tokens=read["input_ids"], mask=read["attention_mask"])


def image_reward(
    model: str | Path, prompts: str | Sequence[str], *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageReward:
    """ImageReward of pictures and prompts. Xu et al. 2023, arXiv:2304.05977.

    Args:
        model: a folder (or hub name) that `scripts/convert_reward.py image-reward` has made of the published pickle:
            a BlipForImageTextRetrieval of transformers with its tokenizer, and `head.safetensors`.
        prompts: one for all rows or one each; a batch of k times as many rows has k pictures (particles) of each.

    Raises:
        ValueError: no prompt, or a model that cannot be loaded or is incomplete; pickles are refused.
    """
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    listed = texts("image_reward", prompts)
    blip = pretrained("image_reward", BlipForImageTextRetrieval, model, device=device, dtype=dtype, spare=UNUSED)
    width = blip.config.text_config.hidden_size
    head = perceptron("image_reward", tensors("image_reward", model, "head.safetensors"), width).to(device)
    eye = Eye(int(blip.config.vision_config.image_size), *CLIP)
    none = torch.empty(0, dtype=torch.long)
    return ImageReward(blip, head, eye, none, none).told(companion("image_reward", AutoTokenizer, model), listed)
