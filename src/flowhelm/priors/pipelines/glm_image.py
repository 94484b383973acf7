"""GLM-Image as a flow. Read off diffusers' GlmImagePipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from ...codec import Codec, Standardized
from ..codecs import Autoencoder
from .cogview4 import CogView4
from .pipeline import Told
from .tokens import aligned


@dataclass(frozen=True, eq=False)
class GlmImage(CogView4):
    """GLM-Image: a language model draws a rough picture in tokens, and this network refines it; its clock is CogView4's less 1.

    `bind` draws the tokens of each text for the size of now, from a seed of its own, so bind after `sized`; tokens drawn elsewhere go in as
    `prior_token_ids`. Guidance compares with another text (the pipeline: the empty one) and no tokens.
    """

    classes: ClassVar = ("GlmImagePipeline",)
    scale: ClassVar = 1.5
    needs: ClassVar = ("prompt_embeds", "prior_token_ids")
    reads: ClassVar = ("tokenizer", "text_encoder", "processor", "vision_language_encoder")

    def _asked(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        size = torch.tensor([self.size]).expand(len(x), 2).to(x)
        drawn = told["prior_token_ids"]
        return -self.net(
            hidden_states=x,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            prior_token_id=drawn,
            prior_token_drop=told.get("prior_token_drop", torch.zeros_like(drawn)).bool(),
            timestep=self._clock(sigma) - 1,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            return_dict=False,
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return aligned(
            [
                self.pipe.encode_prompt([each], do_classifier_free_guidance=False, device=self.text_device)[0][0]
                for each in prompts
            ]
        )

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        seed, (height, width) = torch.Generator().manual_seed(0), self.size
        with torch.random.fork_rng():  # it seeds the generators of the whole process
            drawn = [self.pipe.generate_prior_tokens(each, height, width, generator=seed)[0] for each in prompts]
        told = self._text(prompts) | {"prior_token_ids": torch.cat(drawn)}
        return told, None if negatives is None else self._text(negatives)

    def _against(self, told: dict[str, Tensor], null: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = told["prior_token_ids"]
        return null | {"prior_token_ids": drawn, "prior_token_drop": torch.ones_like(drawn)}

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        tokens = self.shape[-2] * self.shape[-1] // self.net.config.patch_size**2  # one drawn for each of the network's
        embeds = self._ones(rows, words or self._words, self.net.config.text_embed_dim)
        return {"prompt_embeds": embeds, "prior_token_ids": self._ones(rows, tokens, dtype=torch.int64)}

    def _levels(self, scheduler: Any, steps: int) -> None:
        clock = numpy.linspace(1000, 1, steps + 1)[:-1].astype(int)
        scheduler.set_timesteps(timesteps=clock, sigmas=clock / 1000, mu=self._mu(steps))

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        told = super().arguments(prompt, negative, scale)
        return {name: each for name, each in told.items() if not name.startswith("negative_prior")}

    @property
    def multiple(self) -> int:
        return 2 * super().multiple

    @cached_property
    def codec(self) -> Codec:
        config = self.pipe.vae.config
        mean, std = (torch.tensor(config[f"latents_{name}"]).view(-1, 1, 1) for name in ("mean", "std"))
        return Standardized(Autoencoder(self.pipe.vae), mean, std)
