"""A transformer that reads words beside the picture. SD3's MM-DiT, Esser et al. 2024, arXiv:2403.03206, at any width.

Picture and text are two streams with weights of their own, which attend to both; times and the pooled text modulate every layer. The
transformer is diffusers' `SD3Transformer2DModel`; only the reading of words is flowhelm's own: a learnt vector for each word and place,
where the paper has three large encoders. A word of 0 is no word, and a text of zeros is the null condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MMDiT(nn.Module):
    """A velocity network `net(x, t, words)`: x `(b, c, h, w)`, t `(b,)`, words `(b, places)` int64, each 0 or a number of a word.

    Args:
        shape: `(c, h, w)` of a picture, whose sides are multiples of `patch`.
        words: how many there are; places: of a text. width, layers, heads: of the transformer; width is a multiple of heads.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, words: int, places: int = 4, patch: int = 2, width: int = 96, layers: int = 4, heads: int = 3
    ):  # fmt: skip
        super().__init__()
        from diffusers import SD3Transformer2DModel

        channels, height, wide = shape
        if height % patch or wide % patch or width % heads:
            raise ValueError(
                f"MMDiT: expected sides that are multiples of patch = {patch} and a width that is one of heads = {heads}, "
                f"got {height} x {wide} and {width}"
            )
        model: Any = SD3Transformer2DModel(
            sample_size=max(height, wide), patch_size=patch, in_channels=channels, num_layers=layers, attention_head_dim=width // heads,
            num_attention_heads=heads, joint_attention_dim=width, caption_projection_dim=width, pooled_projection_dim=width,
            out_channels=channels, pos_embed_max_size=max(height, wide) // patch, qk_norm="rms_norm",
        )  # fmt: skip
        self.transformer = model
        self.word = nn.Embedding(words + 1, width, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(places, width))
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def read(self, words: Tensor) -> dict[str, Tensor]:
        """What the transformer is told of words `(b, places)`, by its own names."""
        read = self.word(words)
        return {"encoder_hidden_states": read + self.place, "pooled_projections": self.pooled(read.mean(1))}

    def forward(
        self, x: Tensor, t: Tensor, words: Tensor | None = None, added: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`added`: what a control branch adds after the layers; see `priors.controlled`."""
        if words is None:
            words = torch.zeros(len(x), len(self.place), dtype=torch.int64, device=x.device)
        out: Tensor = self.transformer(
            hidden_states=x, timestep=1000 * (1 - t), block_controlnet_hidden_states=added, return_dict=False, **self.read(words)
        )[0]  # fmt: skip
        return out


def numbered(texts: Sequence[str], known: Sequence[str], places: int = 4) -> Tensor:
    """Texts as numbers of words `(n, places)`, 1 for the first that is known; places that are left are 0.

    Raises:
        ValueError: a word that is not known, or more words than places.
    """
    table = {word: i for i, word in enumerate(known, 1)}
    rows = []
    for text in texts:
        words = text.lower().split()
        if unknown := [word for word in words if word not in table]:
            raise ValueError(f"prompt: expected words of {', '.join(known)}, got {unknown[0]!r}")
        if len(words) > places:
            raise ValueError(f"prompt: expected at most {places} words, got {len(words)}; shorten it")
        rows.append([table[word] for word in words] + [0] * (places - len(words)))
    return torch.tensor(rows)
