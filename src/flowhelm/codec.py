"""Codecs: pictures to latents and back; a flow over latents that restores like any other; and compressors, which are priors themselves.

A method asks `flow.decode` for the picture, so operators and rewards stay in pixels whatever the prior's state is.

A compressor has a probability for its latents, in two parts: p(h) of a hyper-latent, p(z | h) of the latent itself. What it says is
the probability of a bin of side 1 around an entry, which is what rounding leaves; its bits are the length of a file (`bits`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as fn

from .flow import Flow, Guidance, NetFlow, Pixels, Wrapped
from .path import Ends, Path, linear
from .rng import Noise
from .shapes import Image, State, Time


class Codec(Protocol):
    """An auto-encoder."""

    def encode(self, image: Image) -> State:
        """Picture `(b, c, h, w)` in [-1, 1] -> latent `(b, *shape(h, w))`."""
        ...

    def decode(self, latent: Tensor) -> Image:
        """Latent -> picture `(b, c, h, w)`, nominally in [-1, 1] (never clamped); differentiable."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the latent of one picture of this size, channels first. ValueError for a size it does not take."""
        ...


class Tokenizer(Protocol):
    """An auto-encoder whose latents are tokens: at each place the number of one of K codes of d numbers."""

    @property
    def codes(self) -> Tensor:
        """`(K, d)`."""
        ...

    def encode(self, image: Tensor) -> Tensor:
        """Picture `(b, c, h, w)` in [-1, 1] -> tokens `(b, *shape(h, w))` int64 in 0..K-1."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """The codes of tokens, or numbers between them, `(b, d, *shape)` -> picture, nominally in [-1, 1]; differentiable."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the tokens of one picture of this size. ValueError for a size that it does not take."""
        ...


class Latents(NamedTuple):
    """The latent z `(b, ...)` of a compressor, and its hyper-latent h `(b, ...)`, which may have no numbers."""

    latent: Tensor
    hyper: Tensor


def packed(latents: Latents) -> Tensor:
    """Both as one row of numbers for each picture, `(b, n)`."""
    return torch.cat([each.flatten(1) for each in latents], 1)


def unpacked(flat: Tensor, like: Latents) -> Latents:
    """`packed` undone, for latents of the shapes of `like`."""
    parts = flat.split([each[0].numel() for each in like], 1)
    return Latents(*(part.view_as(each) for part, each in zip(parts, like, strict=True)))


class Compressive(Codec, Protocol):
    """A compressor: an auto-encoder with a probability for its latents."""

    def analyse(self, image: Tensor) -> Latents:
        """Picture `(b, c, h, w)` in [-1, 1] -> both latents, not rounded."""
        ...

    def log_prior(self, latents: Latents) -> Tensor:
        """log p(z | h) + log p(h) in nats, differentiable: `(b,)`."""
        ...


@dataclass(frozen=True, eq=False)
class CodecPrior(Pixels):
    """A compressor as a prior over pictures, for `restore.vble`. Its state is the picture; it has no velocity.

    Args:
        codec: trained. shape: of one picture `(c, h, w)`, of any size. stride: what the codec wants height and width to be multiples of;
            pictures are continued to that size and cut back.
        name: of the prior. about: what its file says of itself.
    """

    codec: Compressive
    shape: tuple[int, ...]
    stride: int = 1
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    path: Path = linear
    prior_kind = "codec"

    def velocity(self, x: State, t: Time) -> State:
        raise ValueError(f"{self.name or 'this prior'} is a compressor and has no velocity; use the method vble")

    def analyse(self, image: Tensor) -> Latents:
        """Both latents of pictures of this size."""
        bottom, right = (-side % self.stride for side in image.shape[-2:])
        wide = fn.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
        return Latents(*(each.to(image) for each in self.codec.analyse(wide)))

    def picture(self, latent: Tensor) -> Tensor:
        """Decoded, of this size. Raises ValueError for a latent of another size."""
        decoded = self.codec.decode(latent)
        if len(self.shape) < 3:
            return decoded
        height, width = (-(-side // self.stride) * self.stride for side in self.shape[-2:])
        if tuple(decoded.shape[-2:]) != (height, width):
            raise ValueError(
                f"{self.name or 'codec'}: expected a latent of {height} x {width} pixels, got one of {decoded.shape[-2]} x "
                f"{decoded.shape[-1]}; take sized(height, width) of its own picture"
            )
        return decoded[..., : self.shape[-2], : self.shape[-1]]

    def log_prior(self, latents: Latents) -> Tensor:
        return self.codec.log_prior(latents)

    def draw(self, noise: Noise) -> Tensor:
        """Pictures of the compressor's own law, one for each stream: `(rows, *shape)`. ValueError of a codec that cannot draw."""
        draw: Callable[[Latents], Latents] | None = getattr(self.codec, "draw", None)
        if draw is None:
            raise ValueError(f"{type(self.codec).__name__} has no `draw`; expected a codec that draws its latents")
        with torch.no_grad():
            like = self.analyse(torch.zeros(len(noise), *self.shape))
            return self.picture(draw(Latents(*(noise(each) for each in like))).latent)

    def sized(self, height: int, width: int) -> Self:
        """The same prior for pictures of another size."""
        return replace(self, shape=(*self.shape[:-2], height, width))


def bits(codec: Compressive, image: Tensor) -> Tensor:
    """Length of a file of each picture `(b,)`, in bits: of its rounded latents."""
    with torch.no_grad():
        return -codec.log_prior(Latents(*(each.round() for each in codec.analyse(image)))) / math.log(2)


def log_bin(log_cumulative: Callable[[Tensor], Tensor], upper: Tensor, lower: Tensor) -> Tensor:
    """log (F(upper) - F(lower)) of a symmetric law, F(-x) = 1 - F(x), given log F: exact in both tails, with a gradient everywhere."""
    flip = upper + lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    most = log_cumulative(upper)
    return most + torch.log(-torch.expm1((log_cumulative(lower) - most).clamp(max=-1e-12)))


def log_normal_bin(offset: Tensor, scale: Tensor) -> Tensor:
    """log P(|N(offset, scale^2)| < 1/2): that of a unit bin at this distance from the mean, shaped as `offset`."""
    return log_bin(torch.special.log_ndtr, (0.5 - offset) / scale, (-0.5 - offset) / scale)


@dataclass(frozen=True, eq=False)
class Standardized:
    """A codec whose latents are brought to mean 0 and variance 1: latent = (codec.encode(image) - shift) / scale.

    Args:
        shift, scale: anything that broadcasts against one latent, such as `(c, 1, 1)`; see `standardized`.
    """

    codec: Codec
    shift: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if not (self.scale > 0).all() or not self.scale.isfinite().all():
            raise ValueError(
                f"Standardized: expected positive finite scales, got {self.scale.flatten().tolist()}; a channel that "
                "never changes holds nothing: drop it, or give it scale 1"
            )

    def normalize(self, latent: Tensor) -> Tensor:
        """Latents of the inner codec -> of this one."""
        return (latent - self.shift.to(latent)) / self.scale.to(latent)

    def encode(self, image: Image) -> State:
        return self.normalize(self.codec.encode(image))

    def decode(self, latent: Tensor) -> Image:
        return self.codec.decode(latent * self.scale.to(latent) + self.shift.to(latent))

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.codec.shape(height, width)


def standardized(codec: Codec, latents: Tensor) -> Standardized:
    """Per-channel mean and standard deviation of `latents` `(n, c, ...)`, which `codec` has made (`train.cached`)."""
    if latents.ndim < 2 or len(latents) < 2:
        raise ValueError(
            f"standardized: expected latents (n, c, ...) of at least 2 pictures, got {tuple(latents.shape)}"
        )
    channels = latents.transpose(0, 1).flatten(1).double()
    shape = (-1, *(1,) * (latents.ndim - 2))
    std, mean = torch.std_mean(channels, dim=1, correction=0)
    return Standardized(codec, mean.view(shape).to(latents.dtype), std.view(shape).to(latents.dtype))


@dataclass(frozen=True, eq=False)
class LatentFlow(Wrapped):
    """A prior over pictures whose state is a latent.

    Args:
        flow: over latents: a `NetFlow` of the latent's shape, an edited one, or an exact one. Train this inner one.
        codec: between its states and pictures; for instance `Standardized`.

    `bind` and `sized` reach through to the network's flow.
    """

    flow: Flow
    codec: Codec

    @property
    def pixels(self) -> bool:  # type: ignore[override]
        return False

    def velocity(self, x: State, t: Time) -> State:
        return self.flow.velocity(x, t)

    def ends(self, x: State, t: Time) -> Ends:
        return self.flow.ends(x, t)

    def encode(self, image: Image) -> State:
        return self.codec.encode(image)

    def decode(self, clean: State) -> Image:
        return self.codec.decode(clean)

    def bind(self, *condition: Tensor, guidance: Guidance | None = None) -> Self:
        """The same prior, told something about each row; see `NetFlow.bind`."""
        return replace(self, flow=self._network("bind").bind(*condition, guidance=guidance))

    def sized(self, height: int, width: int) -> Self:
        """The same prior for pictures of another size, in pixels; for networks and codecs that take any."""
        return replace(self, flow=self._network("sized").sized(*self.codec.shape(height, width)[-2:]))

    def _network(self, asked: str) -> NetFlow:
        if not isinstance(self.flow, NetFlow):
            raise ValueError(
                f"{asked}: expected a network's flow inside the LatentFlow, got {type(self.flow).__name__}; "
                f"{asked} the network's flow first and wrap the result"
            )
        return self.flow


__all__ = [
    "Codec",
    "CodecPrior",
    "Compressive",
    "LatentFlow",
    "Latents",
    "Standardized",
    "Tokenizer",
    "bits",
    "log_bin",
    "log_normal_bin",
    "packed",
    "standardized",
    "unpacked",
]
