"""Qwen-Image and Qwen-Image 2.1 as flows. Read off diffusers' QwenImagePipeline and QwenImage21Pipeline; the tests hold them to
the same latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec import Codec, Standardized
from ...flow import Guidance
from ...guide import cfg
from .pipeline import Pipeline, Told
from .tokens import Packed, aligned, by_length, even_levels, packed, unpacked


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
            prompts, device=self.text_device, max_sequence_length=512
        )  # that of its call, not of encode_prompt
        return {"prompt_embeds": embeds} | ({} if mask is None else {"prompt_embeds_mask": mask})

    @property
    def _words(self) -> int:
        return 512  # as `_text` asks for

    def _rule(self, scale: float) -> Guidance | None:
        return partial(rescaled, scale=scale) if scale > 1 else None

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return by_true_cfg(super().arguments(prompt, negative, scale))

    @cached_property
    def codec(self) -> Codec:
        return framed(self.pipe.vae)


@dataclass(frozen=True, eq=False)
class QwenImage21(Pipeline):
    """Qwen-Image 2.1: a latent to a token, told sigma; classifier-free guidance, off unless asked for; auto-encoder by 16.

    Each text is read alone and rows of equal length are asked for together: where the picture stands depends on the length of the text,
    so that padding would move it. The auto-encoder is one of pictures with an opacity, which are opaque here.
    """

    classes: ClassVar = ("QwenImage21Pipeline",)
    scale: ClassVar = 1.0
    reads: ClassVar = ("processor", "text_encoder")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return by_length(self._asked, x, sigma, told)

    def _asked(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        texts, (height, width) = told["prompt_embeds"].to(x), x.shape[-2:]
        pictured = torch.arange(texts.shape[1] + height * width // 4, device=x.device) >= texts.shape[1]
        said = self.net(
            hidden_states=x.flatten(2).mT,
            timestep=sigma,
            encoder_hidden_states=texts,
            img_shapes=[[(1, height, width)]] * len(x),
            img_mask=pictured.expand(len(x), -1),
            return_dict=False,
        )[0]
        return -said[:, -height * width :].mT.reshape(x.shape)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return aligned([self.pipe.encode_prompt(each, device=self.text_device)[0][0] for each in prompts])

    def stand_in(self, rows: int = 1, words: int | None = None) -> dict[str, Tensor]:
        return {"prompt_embeds": self._ones(rows, words or self._words, self.net.config.context_in_dim)}

    def _extra(self, told: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        mask = told.get("prompt_embeds_mask")
        return told if mask is None else {"prompt_embeds": told["prompt_embeds"], "words": mask.sum(1)}

    def _levels(self, scheduler: Any, steps: int) -> None:
        own = self.pipe.config.get("sample_sigmas")  # of a distilled network, made for so many steps
        levels = own if own is not None and len(own) == steps else even_levels(steps)
        scheduler.set_timesteps(sigmas=levels, mu=self._mu(steps))

    @property
    def _tokens(self) -> int:
        return self.shape[-2] * self.shape[-1]

    def native(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT

    def returned(self, latents: Tensor) -> Tensor:
        return latents.mT.reshape(-1, *self.shape)

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        return by_true_cfg(super().arguments(prompt, negative, scale))

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @cached_property
    def codec(self) -> Codec:
        return framed(self.pipe.vae, first_chunk=True)


def by_true_cfg(told: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline that has its scale by another name and does not guide without a second prompt."""
    told = {"true_cfg_scale": told.pop("guidance_scale")} | told
    return told if "prompt_embeds" in told else {"negative_prompt": ""} | told


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
        options: what its decoder wants to be told besides.

    Its own `decode` clamps pictures, so that nothing can be learnt from a saturated pixel; here its parts are used, which do not,
    unless it is told to work in tiles, slices or patches. Opacity is put in as 1, and dropped.
    """

    model: nn.Module
    options: Mapping[str, bool]

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        opacity = self._model.config.get("in_channels", 3) - 3
        pictures = nn.functional.pad(image, (0, 0, 0, 0, 0, opacity), value=1.0)[:, :, None]
        return self._model.encode(pictures.to(self._weight)).latent_dist.mode()[:, :, 0].to(image)

    def decode(self, latent: Tensor) -> Tensor:
        model, frames = self._model, latent[:, :, None].to(self._weight)
        if model.use_tiling or model.use_slicing or model.config.get("patch_size"):
            pictures = model.decode(frames).sample
        else:
            pictures = model.decoder(model.post_quant_conv(frames), **self.options)
        return pictures[:, :3, 0].to(latent)

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


def framed(model: Any, *, first_chunk: bool = False) -> Standardized:
    """The codec of a video auto-encoder in the units of its diffusion models, by its `latents_mean` and `latents_std`.

    first_chunk: whether its decoder must be told that this frame is the first.
    """
    mean, std = (torch.tensor(model.config[f"latents_{name}"]).view(-1, 1, 1) for name in ("mean", "std"))
    return Standardized(Frame(model, {"first_chunk": True} if first_chunk else {}), mean, std)
