"""FLUX.2 (dev, Klein) as a flow. Read off diffusers' Flux2Pipeline and Flux2KleinPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...codec import Codec, Standardized
from ...flow import Guidance
from .pipeline import Pipeline, Told, even_levels


@dataclass(frozen=True, eq=False)
class Flux2(Pipeline):
    """FLUX.2 dev: its state has 2 x 2 latents in a pixel, standardised by a batch norm; it is told sigma and its guidance scale."""

    classes: ClassVar = ("Flux2Pipeline",)
    scale: ClassVar = 4.0

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        texts = told["prompt_embeds"].to(x)
        said = self.net(
            hidden_states=x.flatten(2).mT,
            timestep=sigma,
            guidance=told.get("guidance"),
            encoder_hidden_states=texts,
            txt_ids=_places(1, 1, texts.shape[1]).expand(len(x), -1, -1).to(x.device),
            img_ids=_places(*x.shape[-2:], 1).expand(len(x), -1, -1).to(x.device),
            return_dict=False,
        )[0]
        return -said.mT.reshape(x.shape)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": self.pipe.encode_prompt(prompt=prompts, device=self.text_device)[0]}

    def _rule(self, scale: float) -> Guidance | None:
        return None  # the scale is told to the network

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        return told | {"guidance": torch.full((len(told["prompt_embeds"]),), scale)}

    def _levels(self, scheduler: Any, steps: int) -> None:
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=self._mu(steps))
        else:
            scheduler.set_timesteps(sigmas=even_levels(steps), mu=self._mu(steps))

    def _mu(self, steps: int) -> float:
        """Log of the shift, a fit of Black Forest Labs in the number of tokens and of steps (their constants for 10 and 200)."""
        few, many = 8.73809524e-05 * self._tokens + 1.89833333, 0.00016927 * self._tokens + 0.45666666
        return many if self._tokens > 4300 else many + (many - few) / 190 * (steps - 200)

    def returned(self, latents: Tensor) -> Tensor:
        return latents.mT.reshape(-1, *self.shape)

    @property
    def _tokens(self) -> int:
        return self.shape[-2] * self.shape[-1]

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.net.config.in_channels, self.size[0] // self.multiple, self.size[1] // self.multiple)

    @cached_property
    def codec(self) -> Codec:
        vae = self.pipe.vae
        mean, variance = (each.detach().float().view(-1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var))
        return Standardized(Patchified(vae), mean, (variance + vae.config.batch_norm_eps).sqrt())


@dataclass(frozen=True, eq=False)
class Flux2Klein(Flux2):
    """FLUX.2 Klein: base is guided by a second prompt, the distilled one is not guided."""

    classes: ClassVar = ("Flux2KleinPipeline",)

    def _rule(self, scale: float) -> Guidance | None:
        return None if self.pipe.config.get("is_distilled") else Pipeline._rule(self, scale)

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        return told


@dataclass(frozen=True, eq=False)
class Patchified:
    """The auto-encoder of FLUX.2 with 2 x 2 of its latents in the channels of one."""

    model: Any

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        latent = self.model.encode(image.to(self.model.device, self.model.dtype)).latent_dist.mode()
        return torch.nn.functional.pixel_unshuffle(latent, 2).to(image)

    def decode(self, latent: Tensor) -> Tensor:
        small = torch.nn.functional.pixel_shuffle(latent, 2)
        return self.model.decode(small.to(self.model.device, self.model.dtype)).sample.to(latent)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = 2 ** len(self.model.config.block_out_channels)
        if height % factor or width % factor:
            raise ValueError(f"codec: expected a height and a width that {factor} divides, got {height} x {width}")
        return (4 * self.model.config.latent_channels, height // factor, width // factor)


def _places(*counts: int) -> Tensor:
    """Positions (0, row, column, word) of tokens counted by row, column, word: `(n, 4)`."""
    return torch.cartesian_prod(torch.arange(1), *(torch.arange(n) for n in counts))
