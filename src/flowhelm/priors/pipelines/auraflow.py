"""AuraFlow as a flow. Read off diffusers' AuraFlowPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .pipeline import Pipeline, Told


@dataclass(frozen=True, eq=False)
class AuraFlow(Pipeline):
    """AuraFlow: told sigma; classifier-free guidance. Padding of the texts is told as zeros, not masked.

    The stock scheduler shifts its levels twice, as with SD3.
    """

    classes: ClassVar = ("AuraFlowPipeline",)
    scale: ClassVar = 3.5
    needs: ClassVar = ("prompt_embeds", "prompt_attention_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return -self.net(x, encoder_hidden_states=told["prompt_embeds"].to(x), timestep=sigma, return_dict=False)[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, *_ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.text_device)
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        made = super().stand_in(rows, words)
        embeds = made["prompt_embeds"]  # encode_prompt repeats its mask over the width; nobody reads it
        return made | {"prompt_attention_mask": made["prompt_attention_mask"].repeat(1, embeds.shape[-1])}

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor
