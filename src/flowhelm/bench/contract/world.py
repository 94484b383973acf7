"""What code is checked on: a known prior over small pictures, one with a decoder, and a measurement of three of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...flow import Flow, MixtureFlow
from ...measure import Linear, Measurement
from ...path import Path, linear
from ...rng import Noise

IMAGE = (1, 4, 4)
STEPS, ROWS = 6, 3
STD = 0.2


@dataclass(frozen=True, eq=False)
class Decoded(Flow):
    """A prior over latents with a linear decoder: its state is no picture."""

    latent: Flow
    matrix: Tensor  # (pixels, latent)
    pixels: bool = False
    path: Path = linear

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.latent.shape

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.latent.velocity(x, t)

    def encode(self, image: Tensor) -> Tensor:
        return (image.flatten(1) @ torch.linalg.pinv(self.matrix).T).view(-1, *self.shape)

    def decode(self, clean: Tensor) -> Tensor:
        # row by row: the rounding of a product of matrices depends on the number of rows
        return (clean.flatten(1)[:, None] * self.matrix).sum(-1).view(-1, *IMAGE)


def law(d: int, shape: tuple[int, ...]) -> MixtureFlow:
    """A mixture of two normals in d dimensions, of fixed random means and covariances."""
    generator = torch.Generator().manual_seed(d)
    root = torch.randn(2, d, d, generator=generator)
    return MixtureFlow(
        torch.tensor([0.4, 0.6]), 0.5 * torch.randn(2, d, generator=generator), root @ root.mT / d / 2, shape=shape
    )


def flows() -> dict[str, Flow]:
    """`pixels` and `latent`: two priors of pictures of shape IMAGE."""
    matrix = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))[0]
    return {"pixels": law(16, IMAGE), "latent": Decoded(law(6, (1, 2, 3)), matrix)}


def operator() -> Linear:
    """Every second column, blurred along the rows."""
    columns = torch.tensor([[0.5, 0], [0.25, 0.25], [0, 0.5], [0, 0.25]])
    return Linear(lambda x: x @ columns, IMAGE)


def measured(by: Linear | None = None) -> Measurement:
    """Of three pictures."""
    generator = torch.Generator().manual_seed(2)
    return Measurement(0.5 * torch.randn(ROWS, 1, 4, 2, generator=generator), by or operator(), STD)


def start(flow: Flow, rows: int = ROWS) -> Tensor:
    return flow.source(Noise(1, rows))
