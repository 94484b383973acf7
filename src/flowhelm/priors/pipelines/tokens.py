"""What families share whose network sees tokens: 2 x 2 latents to one, places, levels, texts of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .pipeline import Pipeline, Told


class Packed(Pipeline):
    """A family with 2 x 2 latents to a token, whose scheduler is given even levels."""

    def _levels(self, scheduler: Any, steps: int) -> None:
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=self._mu(steps))
        else:
            scheduler.set_timesteps(sigmas=even_levels(steps), mu=self._mu(steps))

    def native(self, x: Tensor) -> Tensor:
        return packed(x)

    def returned(self, latents: Tensor) -> Tensor:
        return unpacked(latents, *self.shape[-2:])

    @property
    def multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        factor = self.pipe.vae_scale_factor
        return (self.net.config.in_channels // 4, self.size[0] // factor, self.size[1] // factor)


def packed(x: Tensor) -> Tensor:
    """Latent `(b, c, h, w)` -> tokens of 2 x 2 latents, `(b, h w / 4, 4 c)`."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`; height and width are those of the latent."""
    b, _, c = tokens.shape
    return (
        tokens.view(b, height // 2, width // 2, c // 4, 2, 2)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(b, c // 4, height, width)
    )


def places(height: int, width: int) -> Tensor:
    """Where each token is: (0, row, column), `(height width, 3)`."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width))


def even_levels(steps: int) -> list[float]:
    """sigma = 1 ... 1/steps, evenly: what FLUX, FLUX.2, Qwen-Image and Lumina-2 give their scheduler."""
    return [1 - i / steps for i in range(steps)]


def aligned(texts: list[Tensor]) -> dict[str, Tensor]:
    """Embeddings `(words, width)` of texts as rows of one tensor, with their numbers of words."""
    words = torch.tensor([len(each) for each in texts], device=texts[0].device)
    return {"prompt_embeds": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), "words": words}


def by_length(
    ask: Callable[[Tensor, Tensor, Told], Tensor], x: Tensor, sigma: Tensor, told: Told, text: str = "prompt_embeds"
) -> Tensor:
    """One call for each number of words, for networks that know no mask; `told["words"]` has the numbers, if they differ."""
    words = told["words"].tolist() if "words" in told else []
    if len(set(words)) < 2:
        cut = {text: told[text][:, : words[0]]} if words else {}
        return ask(x, sigma, {**told, **cut})
    order, parts = [], []
    for count in sorted(set(words)):
        rows = [i for i, each in enumerate(words) if each == count]
        picked = {name: each[rows] for name, each in told.items()}
        parts.append(ask(x[rows], sigma[rows], picked | {text: picked[text][:, :count]}))
        order += rows
    return torch.cat(parts)[torch.tensor(order, device=x.device).argsort()]
