"""Z-Image (base, Turbo) as a flow. Read off diffusers' ZImagePipeline; the tests hold it to the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...flow import Guidance
from ...grad import per_row
from ...guide import cfg
from .pipeline import Pipeline, Told
from .tokens import even_levels


@dataclass(frozen=True, eq=False)
class ZImage(Pipeline):
    """Z-Image: told 1 - sigma, answers the velocity towards clean; its scale counts from 0 (Turbo: `scale=0`).

    Texts of different lengths are padded here and told with their numbers of words; the network takes lists.
    `bind(..., guidance=partial(beyond, scale=5.0, longest=1.0, stop=0.8))` is the pipeline's `cfg_normalization` and `cfg_truncation`.
    """

    classes: ClassVar = ("ZImagePipeline",)
    scale: ClassVar = 5.0

    def _ask(self, x: Tensor, sigma: Tensor, told: Told) -> Tensor:
        texts = told["prompt_embeds"].to(x)
        counts = told["words"].tolist() if "words" in told else [texts.shape[1]] * len(texts)
        said = self.net(
            list(x.unsqueeze(2)),
            (1000 - 1000 * sigma) / 1000,  # rounded as the pipeline's
            [text[:count] for text, count in zip(texts, counts, strict=True)],
            return_dict=False,
        )[0]
        return torch.stack(list(said)).squeeze(2)

    def _text(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            list(prompts), device=self.text_device, do_classifier_free_guidance=False
        )  # it writes into its list
        words = torch.tensor([len(each) for each in embeds], device=embeds[0].device)
        return {"prompt_embeds": torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True), "words": words}

    def _texts(
        self, prompts: list[str], negatives: list[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        if negatives is None:
            return self._text(prompts), None
        both = self._text(prompts + negatives)  # padded to one length, so that the network is asked once for both
        told, null = ({name: each.chunk(2)[i] for name, each in both.items()} for i in (0, 1))
        return told, null

    def _rule(self, scale: float) -> Guidance | None:
        return partial(beyond, scale=scale) if scale > 0 else None

    def _levels(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(sigmas=even_levels(steps), mu=self._mu(steps))

    def arguments(self, prompt: str | Told, negative: str | Told | None, scale: float) -> dict[str, Any]:
        told = super().arguments(prompt, negative, scale)
        return {name: list(each) if isinstance(each, Tensor) else each for name, each in told.items()}

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor


def beyond(
    given: Tensor, without: Tensor, t: Tensor, *, scale: float = 5.0, longest: float = 0.0, stop: float = 1.0
) -> Tensor:
    """Guidance of Z-Image: v <- given + scale (given - without).

    Args:
        given, without: `(b, *shape)`. t: 0-dim or `(b,)`.
        scale: 0 is the velocity given the prompt. It is one less than that of `guide.cfg`.
        longest: no row longer than so many times that given the prompt; 0 for any length (`cfg_normalization`).
        stop: none of this where t > stop (`cfg_truncation`).
    """
    v = cfg(given, without, t, scale=1 + scale)
    if longest > 0:
        v = v * per_row((longest * given.flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)).clamp(max=1), v)
    return torch.where(per_row(t > stop, given).bool(), given, v)
