"""A reward of one part of the picture: layout by mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from ..step import Reward
from .rows import differentiable, rows_of


@dataclass(frozen=True, eq=False)
class Region:
    """Any reward, of the picture inside a mask: cut to its bounding box, mid grey outside the mask.

    Args:
        mask: `(h, w)` or `(1, h, w)`, 1 inside and 0 outside (values between fade), of the picture's size.
        reward: of the cut picture.

    Several regions are `Combined([(1.0, Region(left, cat)), (1.0, Region(right, dog))])`.
    """

    mask: Tensor
    reward: Reward

    def __post_init__(self) -> None:
        if self.mask.squeeze(0).ndim != 2 or not self.mask.any():
            raise ValueError(
                f"Region: expected a mask (h, w) that is not empty, got {tuple(self.mask.shape)} with sum {float(self.mask.sum()):g}"
            )

    def __call__(self, image: Image) -> PerSample:
        mask = self.mask.view(self.mask.shape[-2:]).to(image)
        if image.shape[-2:] != mask.shape:
            raise ValueError(
                f"Region: expected pictures of {mask.shape[0]} x {mask.shape[1]} as the mask, got {image.shape[-2]} x {image.shape[-1]}"
            )
        rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return self.reward((mask * image)[..., top:bottom, left:right])

    @property
    def differentiable(self) -> bool:
        return differentiable(self.reward)

    def rows(self, index: Tensor, total: int) -> Self:
        """The same for some rows of a batch of `total`."""
        return replace(self, reward=rows_of(self.reward, index, total))
