"""Lumina-Image 2.0 as a flow. Read off diffusers' Lumina2Pipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from ...flow import Guidance
from ...guide import cfg
from .pipeline import Pipeline, Told
from .tokens import even_levels


@dataclass(frozen=True, eq=False)
class Lumina2(Pipeline):
    """Lumina-Image 2.0: told 1 - sigma, answers the velocity towards clean; guidance keeps the length of every line of latents.

    The system prompt stands before the prompts only, not before what guidance compares with. The pipeline's `cfg_trunc_ratio`, 1 unless
    said, is of the number of steps; by time it is `bind(..., guidance=partial(levelled, scale=4.0, stop=...))`.
    """

    classes: ClassVar = ("Lumina2Pipeline",)
    needs: ClassVar = ("prompt_embeds", "prompt_attention_mask")

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        return self.net(
            hidden_states=x,
            timestep=1 - sigma,
            encoder_hidden_states=told["prompt_embeds"].to(x),
            encoder_attention_mask=told["prompt_attention_mask"],
            return_dict=False,
        )[0]

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        return self._texts(prompts, None)[0]

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        embeds, mask, *null = self.pipe.encode_prompt(
            prompts, negatives is not None, negative_prompt=negatives, device=self.text_device
        )
        told = {"prompt_embeds": embeds, "prompt_attention_mask": mask}
        return told, None if negatives is None else dict(zip(told, null, strict=True))

    def _rule(self, scale: float) -> Guidance | None:
        return partial(levelled, scale=scale) if scale > 1 else None

    def _levels(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(sigmas=even_levels(steps), mu=self._mu(steps))

    @property
    def _tokens(self) -> int:
        return self.shape[0]  # the pipeline counts the channels

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor


def levelled(given: Tensor, without: Tensor, t: Tensor, *, scale: float = 4.0, stop: float = 1.0) -> Tensor:
    """Guidance of Lumina-Image 2.0: classifier-free, then every line (the last axis) as long as that given the prompt.

    Args:
        given, without: `(b, c, h, w)`. t: 0-dim or `(b,)`. scale, stop: as of `guide.cfg`.
    """
    v = cfg(given, without, t, scale=scale, stop=stop)
    return v * (given.norm(dim=-1, keepdim=True) / v.norm(dim=-1, keepdim=True))
