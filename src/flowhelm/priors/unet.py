"""A small convolutional U-Net for photographs: any image size, no attention, no statistics over space.

Nothing in it looks further than `UNet.reach` pixels, so a large picture can be cut into tiles that
overlap by that much and the joined result is the same as that of one call (`guide.tiled`).

The preconditioning is that of Karras et al. 2022 (arXiv:2206.00364, section 5) written for the linear
path and a velocity. For data N(0, d^2) and variance C = t^2 d^2 + (1-t)^2 of the state, the best linear
predictor of v = clean - source is a x with a = (t d^2 - (1-t)) / C, and what it leaves has standard
deviation b = d / sqrt(C). The network F sees x / sqrt(C) and returns the rest in units of b:

    v(x, t) = a(t) x + b(t) F(x / sqrt(C), t)

so that its input and its target have variance 1 at every time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..flow import Flow, NetFlow

DATA_STD = 0.5  # of photographs in [-1, 1]


class Block(nn.Module):
    """x + conv(silu(conv(silu(scale(t) x + shift(t))))); starts as the identity."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.film = nn.Linear(embedding, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.film)
        _zero(self.second)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        spare = (
            not torch.is_grad_enabled()
        )  # then what was just made is written over: a large picture's pages are not mapped anew
        y = self.first(fn.silu(torch.addcmul(shift, x, 1 + scale), inplace=spare))
        y = self.second(fn.silu(y, inplace=spare))
        return y.add_(x) if spare else x + y


class Field(nn.Module):
    """A field over states, shaped as they are, 0 everywhere at first: what VGG-Flow and nabla-DB learn beside the prior.

    Call: `field(x, t)` with x `(b, channels, h, w)` and t 0-dim or `(b,)`; conditions as the network has them, a row each, by `told`.
    """

    def __init__(self, net: UNet, condition: tuple[Tensor, ...] = ()):
        super().__init__()
        self.net, self.condition = net, condition

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        weight = next(self.net.parameters())
        given = [c.to(weight.device).repeat_interleave(len(x) // len(c), dim=0) for c in self.condition]
        return self.net.residual(x.to(weight), t.to(weight).expand(len(x)), *given).to(x)

    def told(self, *condition: Tensor) -> Field:
        """The same field, told of each row what the prior is told; it shares the weights."""
        return Field(self.net, condition)


def field(flow: Flow, widths: tuple[int, ...] = (32, 64)) -> Field:
    """A small network for the states of a prior of pictures or latents `(c, h, w)`, told what a bundled prior's is told."""
    config = getattr(getattr(flow, "net", None), "config", {})
    kinds = {
        kind: config[kind] for kind in ("classes", "words", "numbers") if isinstance(flow, NetFlow) and kind in config
    }
    net = UNet(widths, blocks=1, channels=flow.shape[0], **kinds)
    device = next((p.device for p in getattr(flow, "net", net).parameters()), torch.device("cpu"))
    return Field(net.to(device), flow.condition if isinstance(flow, NetFlow) else ())


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Numbers(nn.Module):
    """Numeric conditions `(b, n)` -> `(b, embedding)`; NaN is an unknown one, told apart from a zero."""

    def __init__(self, count: int, embedding: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * count, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

    def forward(self, values: Tensor) -> Tensor:
        known = ~values.isnan()
        return self.layers(torch.cat([values.nan_to_num(0.0), known.to(values)], dim=1))


class UNet(nn.Module):
    """Velocity network for pictures.

    Args:
        widths: channels at 1/2, 1/4, 1/8, ... of the picture's resolution.
        blocks: residual blocks on each side of each level; the coarsest level has them once.
        channels: of the picture.
        data_std: standard deviation d of the data in the preconditioning.
        classes: how many class labels it is conditioned on; 0 for none.
        words: size of the vocabulary of its prompts; 0 for none. A prompt is a bag of words: their order is not seen.
        numbers: how many numeric conditions it takes; 0 for none.
        spans: it is also given a span of time, `span=` `(b,)` in [0, 1], without effect at first: for flow maps.

    Call: `net(x, t, *conditions)` with x `(b, channels, h, w)` of any h and w, t `(b,)` in [0, 1], and, for each kind of
    condition that it has, in this order: labels `(b,)` int64, `classes` meaning none; words `(b, n)` int64 from 1, 0
    meaning none; numbers `(b, numbers)`, NaN meaning unknown, each about standard normal over the data. Returns the
    velocity, shaped as x. Heights and widths that are no multiple of `stride` are padded inside.
    `net.null` is the row of conditions that says nothing, for classifier-free guidance.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 192),
        blocks: int = 2,
        channels: int = 3,
        data_std: float = DATA_STD,
        classes: int = 0,
        words: int = 0,
        numbers: int = 0,
        spans: bool = False,
    ):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "blocks": blocks, "channels": channels}
        self.config |= {"data_std": data_std, "classes": classes, "words": words, "numbers": numbers}
        self.config |= {"spans": True} if spans else {}
        self.data_std = data_std
        self.stride = 2 ** len(widths)
        # A 3x3 convolution at scale 2^k looks 2^k pixels further; each level has two per block.
        # The stems look 2 each and one stride covers the alignment of the pooled grid.
        per_level = [2 * blocks * 2 ** (k + 1) * (1 if k + 1 == len(widths) else 2) for k in range(len(widths))]
        self.reach = sum(per_level) + 4 + self.stride
        embedding = 128
        # of a list: on the device meta, where headers are checked, linspace and exp import torch's compiler, which takes a second
        frequencies = [math.exp(math.log(0.5) + (math.log(16.0) - math.log(0.5)) * i / 15) for i in range(16)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        self.time = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.span = None
        if spans:
            self.span = nn.Sequential(nn.Linear(32, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
            _zero(self.span[-1])
        self.conditions = nn.ModuleList()
        if classes:
            self.conditions.append(nn.Embedding(classes + 1, embedding))
        if words:
            self.conditions.append(nn.EmbeddingBag(words + 1, embedding, mode="mean", padding_idx=0))
        if numbers:
            self.conditions.append(Numbers(numbers, embedding))
        for (
            condition
        ) in self.conditions:  # every condition starts without effect, so that weights without it are a start
            _zero(condition.layers[-1] if isinstance(condition, Numbers) else condition)
        self.null = tuple(
            null
            for null, present in (
                (torch.full((1,), classes), classes),
                (torch.zeros(1, 1, dtype=torch.int64), words),
                (torch.full((1, numbers), math.nan), numbers),
            )
            if present
        )
        self.stem = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.encoder.append(nn.ModuleList(Block(width, embedding) for _ in range(blocks)))
            if level + 1 < len(widths):
                self.down.append(nn.Conv2d(width, widths[level + 1], 2, stride=2))
                self.up.append(nn.ConvTranspose2d(widths[level + 1], width, 2, stride=2))
                self.decoder.append(nn.ModuleList(Block(width, embedding) for _ in range(blocks)))
        self.head = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        _zero(self.head)

    def residual(self, x: Tensor, t: Tensor, *conditions: Tensor, span: Tensor | None = None) -> Tensor:
        """F: normalised input `(b, c, h, w)`, time `(b,)`, conditions -> normalised target."""
        return self.headed(self.head, x, t, *conditions, span=span)

    def headed(self, head: nn.Module, x: Tensor, t: Tensor, *conditions: Tensor, span: Tensor | None = None) -> Tensor:
        """`residual` with another last layer, from `widths[0]` channels to four times those of the result `(b, n, h, w)`."""
        if len(conditions) not in (0, len(self.conditions)):
            raise ValueError(f"UNet: expected {len(self.conditions)} conditions or none, got {len(conditions)}")
        height, width = x.shape[-2:]
        bottom, right = -height % self.stride, -width % self.stride
        x = fn.pad(x, (0, right, 0, bottom), mode="replicate")
        # log(t / (1-t)) spreads the times evenly over noise levels; its ends are cut where nothing is left to see
        snr = torch.logit(t.clamp(1e-3, 1 - 1e-3)) / 4
        angles = snr[:, None] * self.get_buffer("frequencies")
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        if span is not None and self.span is not None:
            angles = span[:, None] * self.get_buffer("frequencies")
            time = time + self.span(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        given = conditions or tuple(n.to(x.device).expand(len(x), *n.shape[1:]) for n in self.null)
        for embed, condition in zip(self.conditions, given, strict=True):
            time = time + embed(condition.to(x) if condition.is_floating_point() else condition)
        y = self.stem(fn.pixel_unshuffle(x, 2))
        skips = []
        for level, group in enumerate(self.encoder):
            for block in group:  # type: ignore[attr-defined]
                y = block(y, time)
            if level < len(self.down):
                skips.append(y)
                y = self.down[level](y)
        for level in reversed(range(len(self.up))):
            y = self.up[level](y)
            y = y + skips.pop() if torch.is_grad_enabled() else y.add_(skips.pop())
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                y = block(y, time)
        return fn.pixel_shuffle(head(y), 2)[..., :height, :width]

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and 1/sqrt(C) of the module's docstring, each `(b, 1, 1, 1)`."""
        t = t[:, None, None, None]
        var = t**2 * self.data_std**2 + (1 - t) ** 2
        return (t * self.data_std**2 - (1 - t)) / var, self.data_std / var.sqrt(), var.rsqrt()

    def forward(self, x: Tensor, t: Tensor, *conditions: Tensor, span: Tensor | None = None) -> Tensor:
        linear, rest, inward = (s.to(x.dtype) for s in self.scales(t))
        return linear * x + rest * self.residual(inward * x, t, *conditions, span=span)
