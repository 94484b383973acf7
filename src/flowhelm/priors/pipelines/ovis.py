"""Ovis-Image as a flow. Read off diffusers' OvisImagePipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .pipeline import Told
from .tokens import Packed, packed, places, unpacked


@dataclass(frozen=True, eq=False)
class OvisImage(Packed):
    """Ovis-Image: 2 x 2 latents to a token, told sigma; classifier-free guidance. Padding of the texts is told as zeros."""

    classes: ClassVar = ("OvisImagePipeline",)
    scale: ClassVar = 5.0

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        texts = told["prompt_embeds"].to(x)
        said = self.net(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=texts,
            txt_ids=torch.arange(texts.shape[1]).outer(torch.tensor([0, 1, 1])).to(x),
            img_ids=places(height // 2, width // 2).to(x),
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return {
            "prompt_embeds": self.pipe.encode_prompt(
                prompts, do_classifier_free_guidance=False, device=self.text_device
            )[0]
        }
