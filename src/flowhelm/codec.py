"""Codecs: pictures to latents and back; and a flow over latents that restores like any other.

A method asks `flow.decode` for the picture, so operators and rewards stay in pixels whatever the prior's state is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from .flow import Flow, Guidance, NetFlow, Wrapped
from .path import Ends
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


__all__ = ["Codec", "LatentFlow", "Standardized", "Tokenizer", "standardized"]
