"""HunyuanImage 2.1 as a flow, and its distilled version as a flow map, read off HunyuanImagePipeline of diffusers. The tests hold both to
the same latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...flow import Guidance
from ...guide import cfg
from .pipeline import Pipeline, Told
from .tokens import even_levels


@dataclass(frozen=True, eq=False)
class HunyuanImage(Pipeline):
    """HunyuanImage 2.1: told 1000 sigma; classifier-free guidance; auto-encoder by 32; a second encoder reads what stands in quotes.

    The pipeline's guider goes over to adaptive projected guidance with a momentum after its sixth step. That depends on the steps that were
    made, so it is no velocity of a state and a time: here guidance stays as in the first six. The pipeline takes its scale from its guider.
    """

    classes: ClassVar = ("HunyuanImagePipeline",)
    scale: ClassVar = 3.5
    needs: ClassVar = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
    reads: ClassVar = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.net.config.guidance_embeds and not self.net.config.use_meanflow:
            raise ValueError(
                f"{self.name}: expected HunyuanImage 2.1 or its distilled version, got neither the base model nor the distilled one: a "
                "network that takes its guidance scale but not two times"
            )

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return -self._said(x, sigma, told)

    def _said(self, x: Tensor, sigma: Tensor, told: Told, after: Tensor | None = None) -> Tensor:
        """The network's answer, of one time or, with `after`, of two."""
        return self.net(
            hidden_states=x,
            timestep=1000 * sigma.to(x),  # it takes no other dtype
            timestep_r=None if after is None else 1000 * after.to(x),
            guidance=None if "guidance" not in told else 1000 * told["guidance"].to(x),
            encoder_hidden_states=told["prompt_embeds"].to(x),
            encoder_attention_mask=told["prompt_embeds_mask"],
            encoder_hidden_states_2=told["prompt_embeds_2"].to(x),
            encoder_attention_mask_2=told["prompt_embeds_mask_2"],
            return_dict=False,
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return dict(
            zip(
                self.needs,
                self.pipe.encode_prompt(prompts, device=self.text_device, batch_size=len(prompts)),
                strict=True,
            )
        )

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        config, counts = self.net.config, (words or self.pipe.tokenizer_max_length, self.pipe.tokenizer_2_max_length)
        made = []
        for count, width in zip(counts, (config.text_embed_dim, config.text_embed_2_dim), strict=True):
            made += [self._ones(rows, count, width), self._ones(rows, count, dtype=torch.int64)]
        return dict(zip(self.needs, made, strict=True))

    def _rule(self, scale: float) -> Guidance | None:
        return None if self.pipe.guider is None or scale == 1 else partial(cfg, scale=scale)

    def _levels(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(sigmas=even_levels(steps))

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        told = super().arguments(prompt, negative, scale)
        del told["guidance_scale"]
        return told

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.net.config.patch_size[0]


@dataclass(frozen=True, eq=False)
class HunyuanImageMap(HunyuanImage):
    """The distilled HunyuanImage 2.1: a `FlowMap` (a mean flow), told both times and its guidance scale; sample it by `solve.jumps`.

    It answers the mean velocity between its two times. `velocity` is that of two equal times, of which it was trained on few: methods
    that go in small steps run on it, but the base model is made for them.
    """

    scale: ClassVar = 3.25

    @classmethod
    def fits(cls, pipe: Any) -> bool:
        return bool(pipe.transformer.config.use_meanflow)

    def map(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The state at time t from x `(b, *shape)` at time s: 1 evaluation."""
        (device, dtype), told = self._place, self._for(self.told, len(x))
        one, other = (
            (1 - each).to(device, torch.promote_types(dtype, torch.float32)).expand(len(x)) for each in (s, t)
        )
        return x - (t - s) * self._said(x.to(device, dtype), one, told, other).to(x)

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return -self._said(x, sigma, told, sigma)

    def _rule(self, scale: float) -> Guidance | None:
        return None  # the scale is told to the network

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        return told | (
            {"guidance": torch.full((len(told["prompt_embeds"]),), scale)} if self.net.config.guidance_embeds else {}
        )

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return super().arguments(prompt, negative, scale) | {"distilled_guidance_scale": scale}
