"""Style of a picture as correlations of features (Gatys et al. 2016, arXiv:1508.06576), here of a vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from .vision import Vision


@dataclass(frozen=True, eq=False)
class Style:
    """Minus the squared Frobenius distance between the Gram matrices of a picture's features and of a style picture's.

    Args:
        vision: whose features; MPC-Flow's demonstration takes CLIP ViT-B/16.
        picture: of the style, `(1, 3, h, w)` in [-1, 1].
        block: after which they are taken; the third in that demonstration, without the class token.

    A Gram matrix is F^T F / n over n patches; that demonstration's own normalisation is not known to us, so its weight of the energy
    (64) need not carry over.
    """

    vision: Vision
    picture: Tensor
    block: int = 3

    @cached_property
    def _wanted(self) -> Tensor:
        with torch.no_grad():
            return gram(self.vision.patches(self.picture, self.block))

    def __call__(self, image: Image) -> PerSample:
        difference = gram(self.vision.patches(image, self.block)) - self._wanted.to(image)
        return -difference.square().sum((1, 2))


def gram(features: Tensor) -> Tensor:
    """F^T F / n: `(b, n, d)` -> `(b, d, d)`."""
    return features.mT @ features / features.shape[1]
