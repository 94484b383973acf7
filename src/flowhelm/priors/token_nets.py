"""The networks of a prior over tokens: a small tokenizer, and a transformer that fills masked tokens in.

    tokens = Patches(codes=512, side=4)                          pictures -> numbers of codes, and codes -> pictures
    filler = Filler(codes=512, places=49)                        tokens, some of them masked -> logits of every place

Sources: vector quantisation as in VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937), here of the pixels themselves by k-means, so that
only the decoder is trained; masked transformers over tokens (Chang et al. 2022, MaskGIT, arXiv:2202.04200).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class _Block(nn.Module):
    """x + convolutions of it."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Patches(nn.Module):
    """A tokenizer by vector quantisation: a token is the nearest of K small patches, and a network corrects each by its neighbours.

    Args:
        codes: K. side: of a patch, in pixels. width, blocks: of the network that corrects, on the grid of patches.
        channels: of a picture.
        border: pixels around a picture that are always black (-1): they are cut off, and put back.

    `codes` is `(K, channels side^2)`: the patches. They are found by `train.tokens.codebook`, and the network by `tokenizer_loss`; it
    begins with no effect.
    """

    codes: Tensor

    def __init__(self, codes: int, side: int = 4, width: int = 96, blocks: int = 2, channels: int = 1, border: int = 0):
        super().__init__()
        self.config: dict[str, Any] = {
            "codes": codes, "side": side, "width": width, "blocks": blocks, "channels": channels, "border": border
        }  # fmt: skip
        self.side, self.border = side, border
        self.register_buffer("codes", torch.zeros(codes, channels * side**2))
        self.first = nn.Conv2d(channels * side**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(blocks)), nn.GroupNorm(8, width), nn.SiLU())
        self.last = nn.Conv2d(width, channels * side**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def cut(self, image: Tensor) -> Tensor:
        """The patches of pictures `(b, c, height, width)`, without the border: `(b, d, h, w)`."""
        b = self.border
        return fn.pixel_unshuffle(image[..., b : image.shape[-2] - b, b : image.shape[-1] - b], self.side)

    def encode(self, image: Tensor) -> Tensor:
        """Pictures `(b, c, height, width)` in [-1, 1] -> tokens `(b, h, w)` int64 in 0..K-1."""
        patches = self.cut(image).movedim(1, -1)
        codes = self.codes.to(patches)
        # |p - e|^2 without |p|^2, which is the same for all codes
        return (codes.square().sum(1) - 2 * patches @ codes.T).argmin(-1)

    def decode(self, latent: Tensor) -> Tensor:
        """Patches `(b, d, h, w)`, of codes or between them -> pictures, nominally in [-1, 1]; differentiable."""
        corrected = latent + self.last(self.blocks(self.first(latent)))
        return fn.pad(fn.pixel_shuffle(corrected, self.side), (self.border,) * 4, value=-1.0)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Of the tokens of a picture of this size."""
        sides = height - 2 * self.border, width - 2 * self.border
        if min(sides) < self.side or any(side % self.side for side in sides):
            raise ValueError(
                f"tokens: expected a picture of {self.side} n + {2 * self.border} pixels each way, got {height} x {width}"
            )
        return sides[0] // self.side, sides[1] // self.side

    def forward(self, image: Tensor) -> Tensor:
        """What comes back of pictures."""
        return self.decode(self.codes[self.encode(image)].movedim(-1, 1))


class _Layer(nn.Module):
    """Attention of all places to all, and a network of each place."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: on a CPU the fused kernel's backward pass takes longer than all the rest
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.dropout(self.out((scores.to(v) @ v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(fn.gelu(self.wide(self.second(x)))))


class Filler(nn.Module):
    """A transformer: tokens `(b, h, w)` int64, in 0..K-1 or K where masked -> logits of what stands there `(b, h, w, K)`.

    Args:
        codes: K. places: h w. width, depth, heads: of the transformer. dropout: in training.
    """

    def __init__(self, codes: int, places: int, width: int = 128, depth: int = 4, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        self.config: dict[str, Any] = {
            "codes": codes, "places": places, "width": width, "depth": depth, "heads": heads, "dropout": dropout
        }  # fmt: skip
        self.words = nn.Embedding(codes + 1, width)
        self.places = nn.Parameter(torch.randn(places, width) * 0.02)
        nn.init.normal_(self.words.weight, std=0.02)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(depth))
        self.last, self.bias = nn.LayerNorm(width), nn.Parameter(torch.zeros(codes))
        self.turn = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens.flatten(1)) + self.places
        for layer in self.layers:
            x = layer(x)
        logits = fn.linear(self.turn(self.last(x)), self.words.weight[:-1], self.bias)
        return logits.unflatten(1, tokens.shape[1:])
