"""A transformer of many streams over planes, whose cost is linear in how many there are. After arXiv:2501.00651; the layers are our own.

    stream of a plane   q of its tokens;   k, v of its own tokens, of the text, and the means that its two axes have
    mean of an axis     of k and v, along the other axis of each plane that has it, over all such planes
    stream of the text  q, k, v of the text, and the means of all three axes

Every plane has weights of its own, as the text has; time and text modulate every layer, which begin as the identity.

Cost    a plane of n^2 tokens attends to n^2 + 2 n + the text's, however many planes there are; one stream of all to `planes` n^2
Paper   No code and no equations of its layers were published. Tests hold that they turn with the solid and that their cost is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from .triplane import AXES


def _waves(t: Tensor, x: Tensor, count: int) -> Tensor:
    """Sines and cosines of times or spans `(b,)`, `(b, 32)`, typed as x: the slowest `count` of sixteen, 0 for the others."""
    angles = t[:, None] * 0.5 * 2.0 ** torch.arange(16, device=x.device)
    return (torch.stack([angles.sin(), angles.cos()], 1) * (torch.arange(16, device=x.device) < count)).flatten(1).to(x)


class Own(nn.Module):
    """A linear layer for each of several streams: `(streams, b, tokens, inputs)` -> `(streams, b, tokens, outputs)`."""

    def __init__(self, streams: int, inputs: int, outputs: int, zero: bool = False):
        super().__init__()
        bound = 0.0 if zero else inputs**-0.5
        self.weight = nn.Parameter((2 * torch.rand(streams, inputs, outputs) - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(streams, 1, outputs))

    def forward(self, h: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, h.flatten(1, 2), self.weight).unflatten(1, h.shape[1:3])


class Stream(nn.Module):
    """What streams of one kind do before and after they attend."""

    def __init__(self, streams: int, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, Own(streams, width, 3 * width), Own(streams, width, width)
        self.mix = nn.Sequential(Own(streams, width, 4 * width), nn.GELU(), Own(streams, 4 * width, width))
        self.adapt = Own(streams, width, 6 * width, zero=True)

    def ask(self, h: Tensor, told: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """q, k, v `(streams, b, heads, tokens, d)` of unit root mean square, and how the layer is modulated."""
        a = self.adapt(told.expand(len(h), *told.shape)[:, :, None]).chunk(6, -1)
        y = fn.layer_norm(h, h.shape[-1:]) * (1 + a[0]) + a[1]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in self.qkv(y).chunk(3, -1))
        return fn.rms_norm(q, q.shape[-1:]), fn.rms_norm(k, k.shape[-1:]), v, a

    def answer(self, h: Tensor, seen: Tensor, a: tuple[Tensor, ...]) -> Tensor:
        h = h + a[2] * self.out(seen.transpose(2, 3).flatten(3))
        return h + a[5] * self.mix(fn.layer_norm(h, h.shape[-1:]) * (1 + a[3]) + a[4])


class Layer(nn.Module):
    """One layer of all streams."""

    def __init__(self, axes: Sequence[tuple[int, int]], side: int, width: int, heads: int):
        super().__init__()
        self.axes, self.side = axes, side
        self.planes, self.text = Stream(len(axes), width, heads), Stream(1, width, heads)

    def forward(self, h: Tensor, text: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, a = self.planes.ask(h, told)
        tq, tk, tv, ta = self.text.ask(text, told)
        (km, vm), which = (self.means(each) for each in (k, v)), range(len(h))
        keys, values = (
            torch.stack([torch.cat([own[p], words[0], *(mean[i] for i in self.axes[p])], -2) for p in which])
            for own, words, mean in ((k, tk, km), (v, tv, vm))
        )
        h = self.planes.answer(h, fn.scaled_dot_product_attention(q, keys, values), a)
        keys, values = (
            torch.cat([words, *(m[None] for m in mean.values())], -2) for words, mean in ((tk, km), (tv, vm))
        )
        return h, self.text.answer(text, fn.scaled_dot_product_attention(tq, keys, values), ta)

    def means(self, x: Tensor) -> dict[int, Tensor]:
        """For each axis `(b, heads, side, d)`."""
        square = x.unflatten(-2, (self.side, self.side))
        found: dict[int, list[Tensor]] = {}
        for p, (rows, columns) in enumerate(self.axes):
            found.setdefault(rows, []).append(square[p].mean(-2))
            found.setdefault(columns, []).append(square[p].mean(-3))
        return {axis: torch.stack(means).mean(0) for axis, means in sorted(found.items())}


class Planes(nn.Module):
    """A velocity network `net(x, t, words)` over planes joined as channels: x `(b, planes c, s, s)`, t `(b,)` or 0-dim.

    Args:
        shape: `(planes c, s, s)`, s a multiple of `patch`. words: how many there are, numbered from 1; 0 is no word. places: of a text.
        axes: of each plane, its rows' and its columns'. width: a multiple of heads. layers: how many.
        spans: for flow maps. It is also given a span of time, `span=` `(b,)` in [0, 1], without effect at first, and hears of its
            time only what a derivative passes through: waves of up to 64 radians, not of 16384.

    words `(b, places)` int64; None, or zeros, says nothing.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, words: int, places: int = 3, axes: Sequence[tuple[int, int]] = AXES, patch: int = 2,
        width: int = 64, layers: int = 3, heads: int = 4, spans: bool = False,
    ):  # fmt: skip
        super().__init__()
        if shape[0] % len(axes) or shape[1] != shape[2] or shape[1] % patch or width % heads:
            raise ValueError(
                f"Planes: expected channels for each of {len(axes)} planes, sides that are equal and multiples of patch = {patch} and a "
                f"width that is one of heads = {heads}, got {tuple(shape)} and {width}"
            )
        self.config: dict[str, Any] = {
            "shape": tuple(shape),
            "words": words,
            "places": places,
            "axes": tuple(axes),
            "patch": patch,
        }
        self.config |= {"width": width, "layers": layers, "heads": heads, "spans": spans}
        self.shape, self.patch, self.axes = tuple(shape), patch, tuple(axes)
        side, numbers, count = shape[1] // patch, shape[0] // len(axes) * patch**2, len(axes)
        self.inner, self.place = Own(count, numbers, width), nn.Parameter(0.02 * torch.randn(count, 1, side**2, width))
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.span = None
        if spans:
            last = nn.Linear(width, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.span = nn.Sequential(nn.Linear(32, width), nn.SiLU(), last)
        self.word, self.where = nn.Embedding(words + 1, width, padding_idx=0), nn.Parameter(torch.randn(places, width))
        self.pooled = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(self.axes, side, width, heads) for _ in range(layers))
        self.last, self.outer = Own(count, width, 2 * width, zero=True), Own(count, width, numbers, zero=True)
        self.null = (torch.zeros(places, dtype=torch.int64),)

    def forward(self, x: Tensor, t: Tensor, words: Tensor | None = None, *, span: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"Planes: expected planes (b, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}; "
                "they are of another codec, or of another size"
            )
        if words is None:
            words = torch.zeros(len(x), len(self.where), dtype=torch.int64, device=x.device)
        read = self.word(words) + self.where * (words > 0)[..., None]
        told = self.time(_waves(t.expand(len(x)), x, 8 if self.span else 16)) + self.pooled(read.mean(1))
        if span is not None and self.span is not None:
            told = told + self.span(_waves(span, x, 8))
        told = fn.silu(told)
        parts = x.unflatten(1, (len(self.axes), -1)).transpose(0, 1)
        tokens = fn.unfold(parts.flatten(0, 1), self.patch, stride=self.patch).transpose(1, 2)
        h, text = self.inner(tokens.unflatten(0, parts.shape[:2])) + self.place, read[None]
        for layer in self.layers:
            h, text = layer(h, text, told)
        scale, shift = self.last(told.expand(len(h), *told.shape)[:, :, None]).chunk(2, -1)
        y = self.outer(fn.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift).flatten(0, 1).transpose(1, 2)
        y = fn.fold(y, self.shape[1:], self.patch, stride=self.patch).unflatten(0, parts.shape[:2])
        return y.transpose(0, 1).flatten(1, 2)
