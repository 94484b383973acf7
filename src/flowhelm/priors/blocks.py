"""Velocity by segments of time: a network for each, and shared features. Blockwise Flow Matching, Park et al. 2025, arXiv:2510.21167.

    h = features(x, t, label);   v = part_m(x, t, label, h),  m the segment of t;   h is cheap to carry on:
    h(t) ~ h(t_m) + (t - t_m) / (t_{m+1} - t_m) residual(x, t, label)

Cost    with n steps a segment: features + n parts + (n - 1) residuals, where one network for all times costs n times its own
Paper   depths 20, 5 and 4 at width 1152, rotary positions, low-rank modulation; here 3, 2 and 1 at 64, learnt positions. The
        features modulate every token of a part by a sum with time and label.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class Layer(nn.Module):
    """Attention and a mixing network, each shifted, scaled and gated by a vector per token."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.adapt = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        a = self.adapt(fn.silu(told)).chunk(6, -1)
        y = fn.layer_norm(h, h.shape[-1:]) * (1 + a[0]) + a[1]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(y).chunk(3, -1))
        seen = fn.scaled_dot_product_attention(fn.rms_norm(q, q.shape[-1:]), fn.rms_norm(k, k.shape[-1:]), v)
        h = h + a[2] * self.out(seen.transpose(1, 2).flatten(2))
        return h + a[5] * self.mix(fn.layer_norm(h, h.shape[-1:]) * (1 + a[3]) + a[4])


class Stack(nn.Module):
    """Patches of a picture `(b, c, h, w)`, told a vector `(b, 1, width)` or one per token -> tokens `(b, n, width)`."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, depth: int, heads: int):
        super().__init__()
        self.inner = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn((shape[1] // patch) * (shape[2] // patch), width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.inner(x).flatten(2).transpose(1, 2) + self.place
        for layer in self.layers:
            h = layer(h, told)
        return h


class Blocks(nn.Module):
    """A velocity network of several parts, one for each of `segments` equal spans of time.

    Args:
        shape: `(c, h, w)` of a picture, whose sides are multiples of `patch`. classes: labels; their number itself means none.
        depths: layers of the features (0 for none), of each part, and of the residual. semantics: numbers of a token of the
            features that `train.block` holds these to.

    Call: `net(x, t, label)`, an ordinary velocity: any solver takes it.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, segments: int = 3, patch: int = 2, width: int = 64,
        depths: tuple[int, int, int] = (3, 2, 1), heads: int = 4, semantics: int = 64,
    ):  # fmt: skip
        super().__init__()
        self.shape, self.segments, self.patch = shape, segments, patch
        self.tokens = (shape[1] // patch) * (shape[2] // patch)
        self.null = (torch.full((1,), classes),)
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        stack = partial(Stack, shape, patch, width, heads=heads)
        self.shared = stack(depths[0]) if depths[0] else None
        self.residual = stack(depths[2]) if depths[0] and depths[2] else None
        self.parts, self.join = nn.ModuleList(stack(depths[1]) for _ in range(segments)), nn.Linear(width, width)
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, semantics))
        self.last, self.outer = nn.Linear(width, 2 * width), nn.Linear(width, shape[0] * patch**2)
        for layer in (self.last, self.outer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def segment(self, t: Tensor) -> Tensor:
        """Which segment a time belongs to: 0 to segments - 1; a border belongs to the later one."""
        return (t * self.segments + 1e-6).long().clamp(0, self.segments - 1)

    def features(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """h `(b, tokens, width)` of rows x `(b, c, h, w)` at times `(b,)`; zeros without features."""
        return (
            x.new_zeros(len(x), 1, self.join.in_features)
            if self.shared is None
            else self.shared(x, self._told(x, t, label))
        )

    def carried(self, h: Tensor, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """h at times t `(b,)`, from h `(b, tokens, width)` at the beginning of their segment."""
        if self.residual is None:
            return h
        share = t * self.segments - self.segment(t)
        return h + share.to(x)[:, None, None] * self.residual(x, self._told(x, t, label))

    def velocity(self, x: Tensor, t: Tensor, label: Tensor, h: Tensor) -> Tensor:
        """The velocity of rows, each by the part of its time."""
        told, which = self._told(x, t, label) + self.join(h), self.segment(t)
        out = x.new_zeros(len(x), self.tokens, self.join.in_features)
        for m in which.unique().tolist():
            rows = which == m
            out[rows] = self.parts[m](x[rows], told[rows])
        scale, shift = self.last(fn.silu(told)).chunk(2, -1)
        y = self.outer(fn.layer_norm(out, out.shape[-1:]) * (1 + scale) + shift).transpose(1, 2)
        return fn.fold(y, self.shape[1:], self.patch, stride=self.patch)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        t = t.expand(len(x))
        return self.velocity(x, t, label, self.features(x, t, label))

    def _told(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angles = t[:, None] * 0.5 * 2.0 ** torch.arange(16, device=x.device)
        return (self.time(torch.cat([angles.sin(), angles.cos()], -1).to(x)) + self.label(label))[:, None]
