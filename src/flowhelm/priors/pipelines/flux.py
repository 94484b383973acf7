"""FLUX.1 (dev, schnell, Krea dev) as a flow. Read off diffusers' FluxPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...flow import Guidance
from .pipeline import Told
from .tokens import Packed, packed, places, unpacked


@dataclass(frozen=True, eq=False)
class Flux(Packed):
    """FLUX.1: 2 x 2 latents to a token, told sigma; dev is told its guidance scale, schnell is not guided.

    The pipeline's `true_cfg_scale` is `bind(..., guidance=partial(guide.cfg, scale=...))`.
    """

    classes: ClassVar = ("FluxPipeline",)
    scale: ClassVar = 3.5
    needs: ClassVar = ("prompt_embeds", "pooled_prompt_embeds")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        said = self.net(
            hidden_states=packed(x),
            timestep=sigma,
            guidance=told.get("guidance"),
            pooled_projections=told["pooled_prompt_embeds"].to(x),
            encoder_hidden_states=told["prompt_embeds"].to(x),
            txt_ids=x.new_zeros(told["prompt_embeds"].shape[1], 3),
            img_ids=places(height // 2, width // 2).to(x),
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(prompt=prompts, prompt_2=None, device=self.text_device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _rule(self, scale: float) -> Guidance | None:
        return None  # the scale is told to the network

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        rows = len(told["prompt_embeds"])
        return told | ({"guidance": torch.full((rows,), scale)} if self.net.config.guidance_embeds else {})
