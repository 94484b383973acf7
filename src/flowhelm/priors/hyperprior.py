"""A small compressor of photographs: a hyperprior auto-encoder. Balle et al. 2018, arXiv:1802.01436; Minnen et al. 2018, arXiv:1809.02736.

    z = analysis(x),  h = hyper-analysis(z)
    p(h) = product of learned laws, one for each channel;  p(z | h) = N(mean(h), scale(h)^2), both of unit bins
    x ~ synthesis(z)

Layers of stride 2 with divisive normalisation between them (GDN; here in its simplified form x / (b + G |x|)). The likelihoods are computed
in the logarithm, so that they have a gradient everywhere and need no floor. Nothing is coded: there is no bit stream, only its length.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..codec import Latents, log_bin, log_normal_bin

LEAST = 0.11
"""Of the scales of p(z | h), which keeps them from collapsing."""


class Divisive(nn.Module):
    """x / (b + G |x|), or x times that: b and G are squares of what is learnt."""

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.offset = nn.Parameter(torch.ones(channels))
        self.weight = nn.Parameter(math.sqrt(0.1) * torch.eye(channels) + 0.01)

    def forward(self, x: Tensor) -> Tensor:
        norm = fn.conv2d(x.abs(), self.weight.square()[:, :, None, None], self.offset.square() + 1e-3)
        return x * norm if self.inverse else x / norm


class Cumulative(nn.Module):
    """A learned cumulative of each channel of `(b, c, ...)`, as its logit: monotone networks of one number (arXiv:1802.01436, 6.1)."""

    def __init__(self, channels: int, width: int = 3, layers: int = 3, spread: float = 10.0):
        super().__init__()
        sides = [1, *(width,) * (layers - 1), 1]
        start = spread ** (-1 / layers)
        self.weights, self.offsets, self.gates = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for layer, (into, out) in enumerate(pairwise(sides), 1):
            first = math.log(math.expm1(start / out if out > 1 else start))
            self.weights.append(nn.Parameter(torch.full((channels, out, into), first)))
            self.offsets.append(nn.Parameter(torch.linspace(-0.5, 0.5, out).repeat(channels, 1)[..., None]))
            if layer < layers:
                self.gates.append(nn.Parameter(torch.zeros(channels, out, 1)))

    def logit(self, x: Tensor) -> Tensor:
        """Of the cumulative at x, shaped as x."""
        y = x.float().transpose(0, 1).flatten(1)[:, None]  # (c, 1, rest)
        for i, (weight, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
            y = fn.softplus(weight.float()) @ y + offset.float()
            if i < len(self.gates):
                y = y + torch.tanh(self.gates[i].float()) * torch.tanh(y)
        return y[:, 0].view(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)

    def log_bins(self, x: Tensor) -> Tensor:
        """log p of the unit bin around each entry, shaped as x."""
        return log_bin(fn.logsigmoid, self.logit(x + 0.5), self.logit(x - 0.5))

    def inverse(self, share: Tensor, reach: float = 200.0) -> Tensor:
        """Where the cumulative is `share`, in (0, 1), shaped as it is: by bisection."""
        goal = torch.logit(share.float().clamp(1e-6, 1 - 1e-6))
        low, high = torch.full_like(goal, -reach), torch.full_like(goal, reach)
        for _ in range(50):
            middle = (low + high) / 2
            less = self.logit(middle) < goal
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return (low + high) / 2


class Hyperprior(nn.Module):
    """A `codec.Compressive` for pictures whose height and width `stride` divides.

    Args:
        widths: channels at 1/2 and 1/4 of the resolution; latent: those of z, at 1/8; hyper: those of h, at 1/16.
        channels: of the picture.
    """

    kind = "codec"

    def __init__(self, widths: tuple[int, int] = (48, 64), latent: int = 96, hyper: int = 24, channels: int = 3):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "latent": latent, "hyper": hyper, "channels": channels}
        self.stride, self.null = 16, ()
        first, second = widths
        down = lambda a, b: nn.Conv2d(a, b, 5, 2, 2)  # noqa: E731
        up = lambda a, b: nn.ConvTranspose2d(a, b, 5, 2, 2, 1)  # noqa: E731
        self.analysis = nn.Sequential(
            down(channels, first), Divisive(first), down(first, second), Divisive(second), down(second, latent)
        )
        self.synthesis = nn.Sequential(
            up(latent, second), Divisive(second, True), up(second, first), Divisive(first, True), up(first, channels)
        )
        self.hyper_analysis = nn.Sequential(nn.Conv2d(latent, second, 3, 1, 1), nn.LeakyReLU(), down(second, hyper))
        self.hyper_synthesis = nn.Sequential(up(hyper, second), nn.LeakyReLU(), nn.Conv2d(second, 2 * latent, 3, 1, 1))
        self.law = Cumulative(hyper)

    def forward(self, image: Tensor) -> Tensor:
        """There and back again, without rounding."""
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> Tensor:
        self.shape(*image.shape[-2:])
        z: Tensor = self.analysis(image)
        return z

    def analyse(self, image: Tensor) -> Latents:
        """Both latents of pictures `(b, c, h, w)` in [-1, 1], not rounded."""
        z = self.encode(image)
        return Latents(z, self.hyper_analysis(z))

    def decode(self, latent: Tensor) -> Tensor:
        x: Tensor = self.synthesis(latent)
        return x

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        if height % self.stride or width % self.stride:
            raise ValueError(f"codec: expected a height and a width that {self.stride} divides, got {height} x {width}")
        return (self.config["latent"], height // 8, width // 8)

    def moments(self, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z given h, each shaped as z."""
        mean, scale = self.hyper_synthesis(hyper).float().chunk(2, dim=1)
        return mean, LEAST + fn.softplus(scale)

    def log_prior(self, latents: Latents) -> Tensor:
        """log p(z | h) + log p(h) of unit bins around them, in nats: `(b,)`."""
        mean, scale = self.moments(latents.hyper)
        first = log_normal_bin(latents.latent.float() - mean, scale)
        return first.flatten(1).sum(1) + self.law.log_bins(latents.hyper).flatten(1).sum(1)

    def draw(self, normal: Latents) -> Latents:
        """Latents of the prior's own law, from standard normal ones of the same shapes."""
        hyper = self.law.inverse(torch.special.ndtr(normal.hyper))
        mean, scale = self.moments(hyper)
        # the law of a unit bin is that of a normal with a uniform added; a variance of 1/12 stands for the uniform
        return Latents(mean + (scale**2 + 1 / 12).sqrt() * normal.latent, hyper)
