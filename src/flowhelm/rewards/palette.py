"""Colours of a picture near those of a palette: sliced optimal transport between the two (Bonneel et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import Image, PerSample


@dataclass(frozen=True, eq=False)
class Palette:
    """Minus the squared sliced 2-Wasserstein distance between the colours of the pixels and those of a palette.

    Args:
        colours: `(k, 3)` in [-1, 1].
        shares: how much of the picture each has, `(k,)`, normalised here; None for equal shares.
        directions: of projection, evenly spread over the half sphere; always the same, so that the reward is a function.

    Differentiable. 0 is the best there is; where things are in the picture is left to the model. A picture of one colour in
    another place of the cube has minus a third of their squared distance.
    """

    colours: Tensor
    shares: Tensor | None = None
    directions: int = 24

    def __post_init__(self) -> None:
        if self.colours.ndim != 2 or self.colours.shape[1] != 3 or not self.colours.abs().max() <= 1:
            raise ValueError(f"Palette: expected colours (k, 3) in [-1, 1], got {tuple(self.colours.shape)}")
        if self.shares is not None and (self.shares.shape != self.colours.shape[:1] or not (self.shares > 0).all()):
            raise ValueError(f"Palette: expected {len(self.colours)} shares above 0, got {self.shares.tolist()}")

    def __call__(self, image: Image) -> PerSample:
        if image.shape[1] != 3:
            raise ValueError(f"Palette: expected pictures of 3 channels, got {image.shape[1]}")
        lines = _spread(self.directions).to(image)
        pixels = image.flatten(2).mT @ lines.T  # (b, pixels, directions)
        count = pixels.shape[1]
        shares = torch.ones(len(self.colours)) if self.shares is None else self.shares
        edges = (shares.double().cumsum(0) / shares.double().sum() * count).round().long()
        owners = torch.searchsorted(edges, torch.arange(count), right=True).clamp(max=len(self.colours) - 1)
        wanted = (self.colours.to(image)[owners.to(image.device)] @ lines.T).sort(dim=0).values
        return -(pixels.sort(dim=1).values - wanted).square().mean((1, 2))


def _spread(count: int) -> Tensor:
    """Directions of a Fibonacci lattice on the half sphere `(count, 3)`."""
    i = torch.arange(count, dtype=torch.float64)
    z = (i + 0.5) / count
    angle = torch.pi * (3 - 5**0.5) * i
    ring = (1 - z**2).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=1)
