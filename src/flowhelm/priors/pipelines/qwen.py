"""Qwen-Image and Qwen-Image 2.1 as flows. Read off diffusers' QwenImagePipeline and QwenImage21Pipeline; the tests hold them to
the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec import Codec, Standardized
from ...flow import Guidance
from ...guide import cfg
from .pipeline import Packed, Told, packed, unpacked


@dataclass(frozen=True, eq=False)
class QwenImage(Packed):
    """Qwen-Image: 2 x 2 latents to a token, told sigma; guidance by a second prompt, each token as long as without it.

    Texts carry a mask where their rows differ in length.
    """

    classes: ClassVar = ("QwenImagePipeline",)

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        height, width = x.shape[-2:]
        said = self.net(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            encoder_hidden_states_mask=told.get("prompt_embeds_mask"),
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
            return_dict=False,
        )[0]
        return -unpacked(said, height, width)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask = self.pipe.encode_prompt(
            prompts, max_sequence_length=512
        )  # that of its call, not of encode_prompt
        return {"prompt_embeds": embeds} | ({} if mask is None else {"prompt_embeds_mask": mask})

    def _rule(self, scale: float) -> Guidance | None:
        return partial(rescaled, scale=scale) if scale > 1 else None

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        if isinstance(prompt, str) and negative is None:
            negative = ""  # else the pipeline would not guide
        told = super().arguments(prompt, negative, scale)
        return told | {"true_cfg_scale": told.pop("guidance_scale")}

    @cached_property
    def codec(self) -> Codec:
        return framed(self.pipe.vae)


def rescaled(given: Tensor, without: Tensor, t: Tensor, *, scale: float = 4.0) -> Tensor:
    """Guidance of Qwen-Image: classifier-free, then every token (2 x 2 latents) as long as that of the velocity given the prompt.

    Args:
        given, without: `(b, c, h, w)`, h and w even. t: not used. scale: as of `guide.cfg`.
    """
    token, aim = packed(cfg(given, without, t, scale=scale)), packed(given)
    return unpacked(token * (aim.norm(dim=-1, keepdim=True) / token.norm(dim=-1, keepdim=True)), *given.shape[-2:])


@dataclass(frozen=True, eq=False)
class Frame:
    """A video auto-encoder's codec for pictures of one frame.

    Args:
        model: of diffusers, such as AutoencoderKLQwenImage; its latents are `(b, c, frames, h, w)`.

    Its own `decode` clamps pictures, so that nothing can be learnt from a saturated pixel; here its parts are used, which do not,
    unless it is told to work in tiles or slices.
    """

    model: nn.Module

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        return self._model.encode(image[:, :, None].to(self._weight)).latent_dist.mode()[:, :, 0].to(image)

    def decode(self, latent: Tensor) -> Tensor:
        model, latent5 = self._model, latent[:, :, None].to(self._weight)
        if model.use_tiling or model.use_slicing:
            return model.decode(latent5).sample[:, :, 0].to(latent)
        return model.decoder(model.post_quant_conv(latent5))[:, :, 0].to(latent)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        factor = self._model.spatial_compression_ratio
        if height % factor or width % factor:
            raise ValueError(f"codec: expected a height and a width that {factor} divides, got {height} x {width}")
        return (self._model.config.z_dim, height // factor, width // factor)

    @property
    def _model(self) -> Any:
        return self.model

    @property
    def _weight(self) -> Tensor:
        return next(self.model.parameters())


def framed(model: Any) -> Standardized:
    """The codec of a video auto-encoder in the units of the diffusion models made for it, by its `latents_mean` and `latents_std`."""
    mean, std = (torch.tensor(model.config[f"latents_{name}"]).view(-1, 1, 1) for name in ("mean", "std"))
    return Standardized(Frame(model), mean, std)
