"""Sana as a flow. Read off diffusers' SanaPipeline; the tests hold it to the same latents."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .pipeline import Pipeline, Told


@dataclass(frozen=True, eq=False)
class Sana(Pipeline):
    """Sana: told 1000 sigma times a number of its own; classifier-free guidance; auto-encoder by 32.

    The pipeline's instruction to enhance a prompt stands before the prompts, not before what guidance compares with. Its resolution binning
    is off: pictures have the size that is asked for. Its usual scheduler, a multistep solver, tells the network whole numbers of 1000;
    here it is told the exact ones.
    """

    classes: ClassVar = ("SanaPipeline",)
    scale: ClassVar = 4.5
    needs: ClassVar = ("prompt_embeds", "prompt_attention_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        said = self.net(
            x,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            encoder_attention_mask=told["prompt_attention_mask"],
            timestep=1000 * sigma * self.net.config.timestep_scale,
            return_dict=False,
        )[0]
        return -said[:, : x.shape[1]]  # some answer a variance, too

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return self._texts(prompts, None)[0]

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        instruction = inspect.signature(self.pipe.__call__).parameters["complex_human_instruction"].default
        embeds, mask, *null = self.pipe.encode_prompt(
            prompts,
            negatives is not None,
            negative_prompt=negatives,
            device=self.text_device,
            complex_human_instruction=instruction,
        )
        told = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
        return told, None if negatives is None else dict(zip(told, null, strict=True))

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return super().arguments(prompt, negative, scale) | {"use_resolution_binning": False}

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.net.config.patch_size
