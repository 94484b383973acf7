"""HiDream-I1 as a flow. Read off diffusers' HiDreamImagePipeline; the tests hold it to the same latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .pipeline import Pipeline, Told


@dataclass(frozen=True, eq=False)
class HiDream(Pipeline):
    """HiDream-I1: told 1000 sigma, answers the velocity towards clean; classifier-free guidance; four text encoders.

    Embeddings have their rows first, `prompt_embeds_llama3` too, `(rows, layers, words, width)`; the pipeline's own call wants its layers
    first. That call always makes pictures of about a megapixel; here they have the size that is asked for.

    In evaluation mode its mixtures of experts switch gradients off without a word. Theirs alone are put in training mode here, where they
    compute the same and can be differentiated.
    """

    classes: ClassVar = ("HiDreamImagePipeline",)
    scale: ClassVar = 5.0
    needs: ClassVar = ("prompt_embeds_t5", "prompt_embeds_llama3", "pooled_prompt_embeds")
    reads: ClassVar = tuple(f"{part}{i}" for i in ("", "_2", "_3", "_4") for part in ("tokenizer", "text_encoder"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in self._mixtures():
            each.training = True

    def _mixtures(self) -> Iterator[torch.nn.Module]:
        return (each for each in self.net.modules() if hasattr(each, "experts") and hasattr(each, "gate"))

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled() and self.net.config.force_inference_output:
            raise ValueError(
                f"{self.name}: expected a transformer that can be differentiated, got one with force_inference_output, which "
                "switches off the gradients of its experts; load it with force_inference_output=False"
            )
        return self.net(
            hidden_states=x,
            timesteps=1000 * sigma,
            encoder_hidden_states_t5=told["prompt_embeds_t5"].to(x),
            encoder_hidden_states_llama3=told["prompt_embeds_llama3"].to(x).transpose(0, 1),
            pooled_embeds=told["pooled_prompt_embeds"].to(x),
            return_dict=False,
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        words, _, layers, _, pooled, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.text_device
        )
        return {
            "prompt_embeds_t5": words,
            "prompt_embeds_llama3": layers.transpose(0, 1),
            "pooled_prompt_embeds": pooled,
        }

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        config, count = self.net.config, words or self._words
        one, other = config.caption_channels
        return {
            "prompt_embeds_t5": self._ones(rows, count, one),
            "prompt_embeds_llama3": self._ones(rows, max(config.llama_layers) + 1, count, other),
            "pooled_prompt_embeds": self._ones(rows, config.text_emb_dim),
        }

    def _levels(self, scheduler: Any, steps: int) -> None:
        dynamic = scheduler.config.get("use_dynamic_shifting")
        scheduler.set_timesteps(steps, **({"mu": self._mu(steps)} if dynamic else {}))

    def _mu(self, steps: int) -> float:
        return 0.5 + 0.65 * (self.net.max_seq - 256) / 3840  # of the longest sequence, whatever the size

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        told = super().arguments(prompt, negative, scale)
        return {
            # negative_pooled_prompt_embeds and so on; layers first
            name: each.transpose(0, 1) if name.endswith("llama3") else each
            for name, each in told.items()
        }

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor
