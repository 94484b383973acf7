"""The networks of a prior over tokens: a small convolutional tokenizer, and a transformer that fills masked tokens in.

    tokens = Lattice(levels=(2,) * 9, widths=(48, 96))       pictures -> indices of codes, and codes -> pictures
    filler = Filler(codes=512, places=49)                        tokens, some of them masked -> logits of every place

Sources: finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505), which with two levels per channel is the look-up free
quantisation of MAGVIT-v2 (Yu et al. 2023, arXiv:2310.05737); masked transformers over tokens (Chang et al. 2022, MaskGIT, arXiv:2202.04200).
"""

from __future__ import annotations

import math
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


class Lattice(nn.Module):
    """A tokenizer whose codes are the points of a lattice: each channel of a latent has a few levels, and no codebook is learnt.

    Args:
        levels: of each channel; the codes are all their combinations. (2,) * 9 is look-up free quantisation to 9 bits.
        widths: channels at half the size, a quarter, ... A token is `2 ** len(widths)` pixels wide and high.
        channels: of a picture.
        border: pixels around a picture that are always black (-1): they are cut off, and put back.

    Raises:
        ValueError: fewer than 2 levels, or more than 65536 codes.

    `codes` is `(K, d)`: the middle of each cell of (-1, 1)^d, the first channel counting fastest.
    """

    codes: Tensor

    def __init__(self, levels: tuple[int, ...], widths: tuple[int, ...], channels: int = 1, border: int = 0):
        super().__init__()
        if min(levels, default=0) < 2 or math.prod(levels) > 65536:
            raise ValueError(f"Lattice: expected levels of at least 2 and at most 65536 codes, got {levels}")
        self.config: dict[str, Any] = {"levels": levels, "widths": widths, "channels": channels, "border": border}
        self.border = border
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        axes = [(2 * torch.arange(n) + 1) / n - 1 for n in reversed(levels)]
        self.register_buffer("codes", torch.cartesian_prod(*axes).view(-1, len(levels)).flip(1), persistent=False)
        down: list[nn.Module] = []
        for narrow, wide in zip((channels, *widths), widths, strict=False):
            down += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), _Block(wide)]
        first, last = widths[0], widths[-1]
        self.down = nn.Sequential(*down, nn.GroupNorm(8, last), nn.SiLU(), nn.Conv2d(last, len(levels), 1))
        up: list[nn.Module] = [nn.Conv2d(len(levels), last, 3, padding=1), _Block(last)]
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [_Block(wide), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
        self.up = nn.Sequential(
            *up, _Block(first), nn.GroupNorm(8, first), nn.SiLU(), nn.ConvTranspose2d(first, 16, 4, stride=2, padding=1),
            nn.SiLU(), nn.Conv2d(16, channels, 3, padding=1),
        )  # fmt: skip

    def latent(self, image: Tensor) -> Tensor:
        """The latent before it is rounded, in (-1, 1): `(b, d, h, w)`."""
        b = self.border
        return self.down(image[..., b : image.shape[-2] - b, b : image.shape[-1] - b]).tanh()  # type: ignore[no-any-return]

    def rounded(self, latent: Tensor) -> Tensor:
        """The nearest point of the lattice; its gradient is passed straight through to the latent."""
        sizes = self.sizes.to(latent).view(-1, 1, 1)  # type: ignore[operator]
        cell = ((latent + 1) / 2 * sizes).floor().clamp(min=0).minimum(sizes - 1)
        return latent + ((2 * cell + 1) / sizes - 1 - latent).detach()

    def encode(self, image: Tensor) -> Tensor:
        """Pictures `(b, c, height, width)` in [-1, 1] -> tokens `(b, h, w)` int64 in 0..K-1."""
        sizes: Tensor = self.sizes  # type: ignore[assignment]
        cell = ((self.latent(image).float() + 1) / 2 * sizes.view(-1, 1, 1)).floor().long()
        cell = cell.clamp(min=0).minimum(sizes.view(-1, 1, 1) - 1)
        place = torch.cat([sizes.new_ones(1), sizes.cumprod(0)[:-1]])
        return (cell * place.view(-1, 1, 1)).sum(1)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents `(b, d, h, w)`, on the lattice or between -> pictures, nominally in [-1, 1]; differentiable."""
        return fn.pad(self.up(latent), (self.border,) * 4, value=-1.0)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Of the tokens of a picture of this size."""
        step = 2 ** len(self.config["widths"])
        sides = height - 2 * self.border, width - 2 * self.border
        if min(sides) < step or any(side % step for side in sides):
            raise ValueError(
                f"tokens: expected a picture of {step}n + {2 * self.border} pixels each way, got {width} x {height}"
            )
        return sides[0] // step, sides[1] // step

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What comes back of pictures, and their latents before rounding."""
        latent = self.latent(image)
        return self.decode(self.rounded(latent)), latent


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

    def __init__(
        self, codes: int, places: int, width: int = 160, depth: int = 5, heads: int = 5, dropout: float = 0.0
    ):
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
