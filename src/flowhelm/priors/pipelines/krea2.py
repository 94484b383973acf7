"""Krea 2 as a flow. Read off diffusers' Krea2Pipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import torch
from torch import Tensor

from ...codec import Codec
from ...flow import Guidance
from ...guide import cfg
from .pipeline import Told
from .qwen import framed
from .tokens import Packed, packed, places, unpacked


@dataclass(frozen=True, eq=False)
class Krea2(Packed):
    """Krea 2: 2 x 2 latents to a token, told sigma; classifier-free guidance whose scale counts from 0 (distilled: `scale=0`)."""

    classes: ClassVar = ("Krea2Pipeline",)
    scale: ClassVar = 4.5
    needs: ClassVar = ("prompt_embeds", "prompt_embeds_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        texts = told["prompt_embeds"].to(x)
        said = self.net(
            hidden_states=packed(x),
            encoder_hidden_states=texts,
            timestep=sigma,
            position_ids=torch.cat([torch.zeros(texts.shape[1], 3), places(height // 2, width // 2)]).to(x.device),
            encoder_attention_mask=told["prompt_embeds_mask"],
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return dict(zip(self.needs, self.pipe.encode_prompt(prompts, device=self.text_device), strict=True))

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        config, count = self.net.config, words or self._words
        embeds = self._ones(rows, count, config.num_text_layers, config.text_hidden_dim)
        return {"prompt_embeds": embeds, "prompt_embeds_mask": self._ones(rows, count, dtype=torch.bool)}

    def _rule(self, scale: float) -> Guidance | None:
        return partial(cfg, scale=1 + scale) if scale > 0 else None

    def _mu(self, steps: int) -> float:
        return 1.15 if self.pipe.config.get("is_distilled") else super()._mu(steps)

    @cached_property
    def codec(self) -> Codec:
        return framed(self.pipe.vae)
