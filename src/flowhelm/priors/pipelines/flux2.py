"""FLUX.2 (dev, Klein) as a flow. Read off diffusers' Flux2Pipeline and Flux2KleinPipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ...codec import Standardized
from ...flow import Guidance
from .pipeline import Pipeline, Told
from .tokens import Packed


@dataclass(frozen=True, eq=False)
class Flux2(Packed):
    """FLUX.2 dev: its state has 2 x 2 latents in a pixel, standardised by a batch norm; it is told sigma and its guidance scale."""

    classes: ClassVar = ("Flux2Pipeline",)
    scale: ClassVar = 4.0

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        texts = told["prompt_embeds"].to(x)
        shown = [x, *(told[name].to(x) for name in sorted(told) if name.startswith("shown"))]
        said = self.net(
            hidden_states=torch.cat([each.flatten(2).mT for each in shown], dim=1),
            timestep=sigma,
            guidance=told.get("guidance"),
            encoder_hidden_states=texts,
            txt_ids=_places(0, 1, 1, texts.shape[1]).expand(len(x), -1, -1).to(x.device),
            img_ids=torch.cat([_places(10 * i, *each.shape[-2:], 1) for i, each in enumerate(shown)])
            .expand(len(x), -1, -1)
            .to(x.device),
            return_dict=False,
        )[0]
        return -said[:, : x[0, 0].numel()].mT.reshape(x.shape)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": self.pipe.encode_prompt(prompt=prompts, device=self.text_device)[0]}

    def _rule(self, scale: float) -> Guidance | None:
        return None  # the scale is told to the network

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        return told | {"guidance": torch.full((len(told["prompt_embeds"]),), scale)}

    def beside(self, *pictures: Tensor) -> Self:
        """The same prior, shown pictures for orientation, as the pipeline's `image` argument; call it after `bind`.

        Args:
            pictures: each `(rows, 3, h, w)` in [-1, 1], of sides that `multiple` divides; they need not be of the state's size.
        """
        with torch.no_grad():
            shown = {f"shown{i}": self.encode(picture) for i, picture in enumerate(pictures)}
        wrong = [len(each) for each in shown.values() if len(each) != len(self.told.get("prompt_embeds", ()))]
        if wrong:
            raise ValueError(
                f"{self.name}: expected one picture for each bound row, got {wrong[0]}; bind the prompts first"
            )
        return replace(self, told={**self.told, **shown}, null=None if self.null is None else {**self.null, **shown})

    def _mu(self, steps: int) -> float:
        """Log of the shift, a fit of Black Forest Labs in the number of tokens and of steps (their constants for 10 and 200)."""
        few, many = 8.73809524e-05 * self._tokens + 1.89833333, 0.00016927 * self._tokens + 0.45666666
        return many if self._tokens > 4300 else many + (many - few) / 190 * (steps - 200)

    def native(self, x: Tensor) -> Tensor:
        return x

    def returned(self, latents: Tensor) -> Tensor:
        return latents.mT.reshape(-1, *self.shape)

    @property
    def _tokens(self) -> int:
        return self.shape[-2] * self.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.net.config.in_channels, self.size[0] // self.multiple, self.size[1] // self.multiple)

    @cached_property
    def codec(self) -> Standardized:
        return patchified(self.pipe.vae)


@dataclass(frozen=True, eq=False)
class Flux2Klein(Flux2):
    """FLUX.2 Klein: base is guided by a second prompt, the distilled one is not guided."""

    classes: ClassVar = ("Flux2KleinPipeline",)

    def _rule(self, scale: float) -> Guidance | None:
        return None if self.pipe.config.get("is_distilled") else Pipeline._rule(self, scale)

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        return told

    def returned(self, latents: Tensor) -> Tensor:
        # this pipeline hands out the auto-encoder's own latents
        return self.codec.normalize(torch.nn.functional.pixel_unshuffle(latents, 2))


@dataclass(frozen=True, eq=False)
class Patchified:
    """The auto-encoder of FLUX.2 with 2 x 2 of its latents in the channels of one.

    Args:
        model: AutoencoderKLFlux2.
        channels_last: whether a patch's channels are counted (row, column, channel), not (channel, row, column).
    """

    model: Any
    channels_last: bool = False

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        latent = self.model.encode(image.to(self.model.device, self.model.dtype)).latent_dist.mode()
        large = torch.nn.functional.pixel_unshuffle(latent, 2).to(image)
        return large.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2) if self.channels_last else large

    def decode(self, latent: Tensor) -> Tensor:
        large = latent.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2) if self.channels_last else latent
        small = torch.nn.functional.pixel_shuffle(large, 2)
        return self.model.decode(small.to(self.model.device, self.model.dtype)).sample.to(latent)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = 2 ** len(self.model.config.block_out_channels)
        if height % factor or width % factor:
            raise ValueError(f"codec: expected a height and a width that {factor} divides, got {height} x {width}")
        return (4 * self.model.config.latent_channels, height // factor, width // factor)


def patchified(model: Any, *, channels_last: bool = False) -> Standardized:
    """The codec of AutoencoderKLFlux2 in the units of its diffusion models, by its batch norm; see `Patchified`."""
    mean, variance = (each.detach().double().view(-1, 1, 1) for each in (model.bn.running_mean, model.bn.running_var))
    return Standardized(Patchified(model, channels_last), mean, (variance + model.config.batch_norm_eps).sqrt())


def _places(picture: int, *counts: int) -> Tensor:
    """Positions (picture, row, column, word) of tokens counted by row, column, word: `(n, 4)`."""
    return torch.cartesian_prod(torch.tensor([picture]), *(torch.arange(n) for n in counts))
