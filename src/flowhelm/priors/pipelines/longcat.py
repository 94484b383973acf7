"""LongCat-Image as a flow. Read off diffusers' LongCatImagePipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...flow import Guidance
from ...guide import cfg
from .pipeline import Told
from .tokens import Packed, packed, places, unpacked


@dataclass(frozen=True, eq=False)
class LongCatImage(Packed):
    """LongCat-Image: 2 x 2 latents to a token, told sigma; guidance by a second prompt, no token longer than without it.

    Prompts are taken as they are; the pipeline rewrites them with its language model unless `enable_prompt_rewrite=False`.
    """

    classes: ClassVar = ("LongCatImagePipeline",)
    scale: ClassVar = 4.5

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        texts, start = told["prompt_embeds"].to(x), self.pipe.tokenizer_max_length
        said = self.net(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=texts,
            txt_ids=torch.arange(texts.shape[1]).outer(torch.tensor([0, 1, 1])).to(x.device),
            img_ids=(places(height // 2, width // 2) + torch.tensor([1, start, start])).to(x.device),
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": self.pipe.encode_prompt(prompts)[0]}

    def _rule(self, scale: float) -> Guidance | None:
        return partial(no_longer, scale=scale) if scale > 1 else None

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return super().arguments(prompt, negative, scale) | {"enable_prompt_rewrite": False}


def no_longer(given: Tensor, without: Tensor, t: Tensor, *, scale: float = 4.5) -> Tensor:
    """Guidance of LongCat-Image: classifier-free, then no token (2 x 2 latents) longer than in the velocity given the prompt.

    Args:
        given, without: `(b, c, h, w)`, h and w even. t: not used. scale: as of `guide.cfg`.
    """
    token, most = packed(cfg(given, without, t, scale=scale)), packed(given).norm(dim=-1, keepdim=True)
    return unpacked(token * (most / (token.norm(dim=-1, keepdim=True) + 1e-8)).clamp(max=1), *given.shape[-2:])
