"""Chroma as a flow. Read off diffusers' ChromaPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .pipeline import Told
from .tokens import Packed, packed, places, unpacked


@dataclass(frozen=True, eq=False)
class Chroma(Packed):
    """Chroma: 2 x 2 latents to a token, told sigma; classifier-free guidance. Padding is masked but for its first token."""

    classes: ClassVar = ("ChromaPipeline",)
    scale: ClassVar = 5.0
    needs: ClassVar = ("prompt_embeds", "prompt_attention_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        texts, mask = told["prompt_embeds"].to(x), told["prompt_attention_mask"].to(x)
        said = self.net(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=texts,
            txt_ids=x.new_zeros(texts.shape[1], 3),
            img_ids=places(height // 2, width // 2).to(x),
            attention_mask=torch.cat([mask, mask.new_ones(len(x), height * width // 4)], dim=1),
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, mask, *_ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.text_device
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        made = super().stand_in(rows, words)
        return made | {"prompt_attention_mask": made["prompt_attention_mask"].to(made["prompt_embeds"])}
