"""Auto-encoders of Hugging Face diffusers as codecs. The model is made by the caller, so nothing of diffusers is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..codec import Standardized


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A diffusers model's own latents, unscaled; `autoencoder` makes the codec that its diffusion models were trained with.

    Args:
        model: AutoencoderKL, AutoencoderTiny or AutoencoderDC.
        generator: None for the mean of the encoder's posterior, else it draws from it (the last two have no posterior).

    Pictures keep their dtype; they are cast for the model and back. Freeze the model with `requires_grad_(False)`.
    """

    model: nn.Module
    generator: torch.Generator | None = None

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        coded = self._model.encode(image.to(self._weight))
        for name in ("latents", "latent"):  # without a posterior: AutoencoderTiny, AutoencoderDC
            if hasattr(coded, name):
                return getattr(coded, name).to(image)
        posterior = coded.latent_dist
        return (posterior.mean if self.generator is None else posterior.sample(self.generator)).to(image)

    def decode(self, latent: Tensor) -> Tensor:
        return self._model.decode(latent.to(self._weight)).sample.to(latent)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        config = self._model.config
        widths = config.get("encoder_block_out_channels") or config["block_out_channels"]  # each level but one halves
        factor = 2 ** (len(widths) - 1)
        if height % factor or width % factor:
            raise ValueError(f"codec: expected a height and a width that {factor} divides, got {height} x {width}")
        return (config["latent_channels"], height // factor, width // factor)

    @property
    def _model(self) -> Any:
        return self.model

    @property
    def _weight(self) -> Tensor:
        return next(self.model.parameters())


def autoencoder(model: nn.Module, *, generator: torch.Generator | None = None) -> Standardized:
    """A diffusers AutoencoderKL, AutoencoderTiny or AutoencoderDC as a codec, in the units of the diffusion models made for it.

    latent = (z - shift_factor) scaling_factor, or (z - latents_mean) scaling_factor / latents_std by channel where the
    model's config has these: what the pipelines of Stable Diffusion, SDXL, SD3 and Flux compute.

    Args:
        model: loaded, for instance `AutoencoderKL.from_pretrained(...)`. generator: see `Autoencoder`.

    Raises:
        ValueError: another kind of model.
    """
    config: Any = getattr(model, "config", {})
    if not {"latent_channels", "scaling_factor"} <= set(config) or not hasattr(model, "decode"):
        raise ValueError(
            f"autoencoder: expected a diffusers AutoencoderKL or AutoencoderTiny, got {type(model).__name__}; "
            "any object with encode, decode and shape is a codec too"
        )
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        raise ValueError("autoencoder: expected both latents_mean and latents_std in the model's config, or neither")
    shift = torch.tensor([config.get("shift_factor") or 0.0] if mean is None else mean)
    scale = torch.tensor([1.0] if std is None else std) / config["scaling_factor"]
    return Standardized(Autoencoder(model, generator), shift.view(-1, 1, 1), scale.view(-1, 1, 1))
