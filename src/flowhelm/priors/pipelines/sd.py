"""Stable Diffusion 1, 2 and XL as flows. Read off diffusers' pipelines; the tests hold them to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .diffusion import Diffusion
from .pipeline import Told


@dataclass(frozen=True, eq=False)
class StableDiffusion(Diffusion):
    """Stable Diffusion 1.x and 2.x: epsilon or v, as the scheduler says. The safety checker is never asked."""

    classes: ClassVar = ("StableDiffusionPipeline",)

    @property
    def net(self) -> Any:
        return self.pipe.unet

    def _ask(self, x: Tensor, label: Tensor, told: Told) -> Tensor:
        return self.net(x, label, encoder_hidden_states=told["prompt_embeds"].to(x), return_dict=False)[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            prompts, device=self.text_device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds}

    @property
    def _words(self) -> int:
        return 77  # CLIP's


@dataclass(frozen=True, eq=False)
class StableDiffusionXL(StableDiffusion):
    """SDXL: two encoders, pooled texts, and the size of the picture, which it is told (`time_ids`; bind other ones as embeddings).

    An empty negative prompt is zeros if the pipeline's configuration says so, which is what its own call does without one.
    """

    classes: ClassVar = ("StableDiffusionXLPipeline",)
    scale: ClassVar = 5.0
    needs: ClassVar = ("prompt_embeds", "pooled_prompt_embeds")

    def _ask(self, x: Tensor, label: Tensor, told: Told) -> Tensor:
        ids = told.get("time_ids")
        if ids is None:  # not bound with the texts, since the size may be changed afterwards
            ids = x.new_tensor([*self.size, 0, 0, *self.size]).expand(len(x), -1)
        more = {"text_embeds": told["pooled_prompt_embeds"].to(x), "time_ids": ids.to(x)}
        return self.net(
            x, label, encoder_hidden_states=told["prompt_embeds"].to(x), added_cond_kwargs=more, return_dict=False
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.text_device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        config, count = self.net.config, words or self._words
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim  # beside six sizes
        return {
            "prompt_embeds": self._ones(rows, count, config.cross_attention_dim),
            "pooled_prompt_embeds": self._ones(rows, pooled),
        }

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        told, null = super()._texts(prompts, negatives)
        if null is None or negatives is None or not self.pipe.config.get("force_zeros_for_empty_prompt"):
            return told, null
        empty = torch.tensor([not text for text in negatives])
        return told, {
            name: each.masked_fill(empty.to(each.device).view(-1, *(1,) * (each.ndim - 1)), 0)
            for name, each in null.items()
        }
