"""FLUX.1 (dev, schnell, Krea dev) as a flow. Read off diffusers' FluxPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...flow import Guidance
from .pipeline import Pipeline, Told, even_levels, packed, unpacked


@dataclass(frozen=True, eq=False)
class Flux(Pipeline):
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
            img_ids=_places(height // 2, width // 2).to(x),
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

    def _levels(self, scheduler: Any, steps: int) -> None:
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=self._mu(steps))
        else:
            scheduler.set_timesteps(sigmas=even_levels(steps), mu=self._mu(steps))

    def native(self, x: Tensor) -> Tensor:
        return packed(x)

    def returned(self, latents: Tensor) -> Tensor:
        return unpacked(latents, *self.shape[-2:])

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        factor = self.pipe.vae_scale_factor
        return (self.net.config.in_channels // 4, self.size[0] // factor, self.size[1] // factor)


def _places(height: int, width: int) -> Tensor:
    """Where each token is: (0, row, column), `(height width, 3)`."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
