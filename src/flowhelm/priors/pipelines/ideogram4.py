"""Ideogram 4 as a flow. Read off diffusers' Ideogram4Pipeline; the tests hold it to the same latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec import Standardized
from .flux2 import patchified
from .pipeline import Pipeline, Told
from .tokens import places


@dataclass(frozen=True, eq=False)
class Ideogram4(Pipeline):
    """Ideogram 4: told 1 - sigma, answers the velocity towards clean; guidance compares with a second network that reads no text.

    So a negative prompt says nothing. The pipeline's scale drops from 7 to 3 for the last 3 of its 48 steps; here it stays.
    The text stands before the picture in one sequence; its padding, which nobody attends to, is cut off.
    """

    classes: ClassVar = ("Ideogram4Pipeline",)
    scale: ClassVar = 7.0
    needs: ClassVar = ("prompt_embeds", "prompt_embeds_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        tokens, picture = x.flatten(2).mT, places(*x.shape[-2:]).to(x.device) + 65536  # far from all words
        if "prompt_embeds" in told:
            net, texts, mask = self.net, told["prompt_embeds"].to(x), told["prompt_embeds_mask"].long()
        else:
            net = self.pipe.unconditional_transformer
            texts, mask = x.new_zeros(len(x), 0, net.config.llm_features_dim), picture.new_zeros(len(x), 0)
        words, count = mask.shape[1], tokens.shape[1]
        said = net(
            hidden_states=nn.functional.pad(tokens, (0, 0, words, 0)),
            timestep=(1 - sigma).to(x),  # it takes no other dtype
            encoder_hidden_states=nn.functional.pad(texts, (0, 0, 0, count)),
            position_ids=torch.cat(
                [((mask.cumsum(1) - 1) * mask)[..., None].expand(-1, -1, 3), picture.expand(len(x), -1, -1)], dim=1
            ),
            segment_ids=nn.functional.pad(2 * mask - 1, (0, count), value=1),  # of padding -1
            indicator=nn.functional.pad(3 * mask, (0, count), value=2),  # 3 a word, 2 a token of the picture
            return_dict=False,
        )[0]
        return said[:, words:].mT.reshape(x.shape)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _, _, kinds = self.pipe.encode_prompt(
            prompts, grid_h=1, grid_w=1, max_sequence_length=2048, device=self.text_device
        )
        mask = kinds[:, :2048] == 3
        words = int(mask.sum(1).max())
        return {"prompt_embeds": embeds[:, 2048 - words : 2048], "prompt_embeds_mask": mask[:, 2048 - words :]}

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        return self._text(prompts), None if negatives is None else {}

    def _against(self, told: dict[str, Tensor], null: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"nothing": next(iter(told.values())).new_zeros(len(told["prompt_embeds"]), 1)}

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        count = words or self._words
        embeds = self._ones(rows, count, self.net.config.llm_features_dim)
        return {"prompt_embeds": embeds, "prompt_embeds_mask": self._ones(rows, count, dtype=torch.bool)}

    def _levels(self, scheduler: Any, steps: int) -> None:
        """Quantiles of a logistic normal law with deviation 1.5 and a mean by the number of pixels; the first is a little below 1."""
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
        mean = 0.5 * math.log(self.size[0] * self.size[1] / 512**2)
        sigma = torch.special.expit(mean + 1.5 * torch.special.ndtri(even))
        low, high = (torch.special.expit(torch.tensor(ratio / 2, dtype=torch.float64)) for ratio in (-15.0, 18.0))
        scheduler.set_timesteps(sigmas=sigma.clamp(low, high).tolist())

    def native(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT

    def returned(self, latents: Tensor) -> Tensor:
        return latents.mT.reshape(-1, *self.shape)

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return super().arguments(prompt, None, scale) | {"guidance_schedule": None}

    @property
    def _words(self) -> int:
        return 2048  # as `_text` asks for

    @property
    def nets(self) -> tuple[Any, ...]:
        return (self.net, self.pipe.unconditional_transformer)

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.net.config.in_channels, self.size[0] // self.multiple, self.size[1] // self.multiple)

    @cached_property
    def codec(self) -> Standardized:
        return patchified(self.pipe.vae, channels_last=True)
