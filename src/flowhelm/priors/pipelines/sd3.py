"""Stable Diffusion 3 and 3.5 as a flow. Read off diffusers' StableDiffusion3Pipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .pipeline import Pipeline, Told


@dataclass(frozen=True, eq=False)
class StableDiffusion3(Pipeline):
    """SD3 and 3.5: told 1000 sigma; classifier-free guidance. The stock scheduler shifts its levels twice (`grid="exact"`: once)."""

    classes: ClassVar = ("StableDiffusion3Pipeline",)
    scale: ClassVar = 7.0
    needs: ClassVar = ("prompt_embeds", "pooled_prompt_embeds")

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.net.config.pos_embed_max_size * self.multiple
        if max(self.size) > most:
            raise ValueError(
                f"{self.name}: expected at most {most} x {most} pixels, which its table of positions has, got "
                f"{self.size[0]} x {self.size[1]}"
            )

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return -self.net(
            hidden_states=x,
            timestep=1000 * sigma,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            pooled_projections=told["pooled_prompt_embeds"].to(x),
            return_dict=False,
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, device=self.text_device
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    @property
    def _words(self) -> int:
        return 77 + super()._words  # CLIP's stand before T5's

    def _levels(self, scheduler: Any, steps: int) -> None:
        dynamic = scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(steps, **({"mu": self._mu(steps)} if dynamic else {}))

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.net.config.patch_size
