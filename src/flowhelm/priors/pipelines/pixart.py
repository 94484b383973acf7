"""PixArt-alpha and -Sigma as flows. Read off diffusers' pipelines; the tests hold them to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .diffusion import Diffusion
from .pipeline import Told


@dataclass(frozen=True, eq=False)
class PixArtSigma(Diffusion):
    """PixArt-Sigma: a learned variance, which is left. Prompts are not cleaned as captions, and sizes are not binned."""

    classes: ClassVar = ("PixArtSigmaPipeline",)
    scale: ClassVar = 4.5
    needs: ClassVar = ("prompt_embeds", "prompt_attention_mask")

    @property
    def multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.net.config.patch_size

    def _ask(self, x: Tensor, label: Tensor, told: Told) -> Tensor:
        return self.net(
            x,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            encoder_attention_mask=told["prompt_attention_mask"],
            timestep=label,
            added_cond_kwargs=self._conditions(x),
            return_dict=False,
        )[0]

    def _conditions(self, x: Tensor) -> dict[str, Tensor | None]:
        return {"resolution": None, "aspect_ratio": None}

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.text_device
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        plain = {"clean_caption": False, "use_resolution_binning": False}
        return super().arguments(prompt, negative, scale) | plain


@dataclass(frozen=True, eq=False)
class PixArtAlpha(PixArtSigma):
    """PixArt-alpha: as Sigma; its networks of 1024 pixels are told the size of the picture."""

    classes: ClassVar = ("PixArtAlphaPipeline",)

    def _conditions(self, x: Tensor) -> dict[str, Tensor | None]:
        if self.net.config.sample_size != 128:
            return super()._conditions(x)
        height, width = self.size
        sides = x.new_tensor([height, width]).expand(len(x), -1)
        return {"resolution": sides, "aspect_ratio": x.new_tensor([height / width]).expand(len(x), -1)}
