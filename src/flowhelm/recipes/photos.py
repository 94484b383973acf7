"""photos: patches of colour photographs; the prior that restores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..priors.unet import UNet
from ..train import Batch, Data, flow_matching, seeded
from ..train.times import logit_normal
from .recipe import Recipe, conditional, pictures, preconditioned

HELD_APART = 24  # the last ones by name


def photos(
    data: Path,
    *,
    beside: Path | None = None,
    batch: int = 8,
    patch: int = 96,
    wide: bool = False,
    centre: float = 0.8,
    seed: int = 0,
) -> Recipe:
    """A fully convolutional prior over patches of photographs, for pictures of any size.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        beside: a second zip of photographs, of which half of every batch is drawn, at the scale that they have.
        batch: patches in a batch.
        patch: their side, in pixels.
        wide: a network of a third more channels and 1.7 times the arithmetic.
        centre: the log-odds of time that training visits most: 0.8 is noise of 57 grey levels, 1.5 of 28.
        seed: of the network's first weights and of the patches.
    """
    if beside and batch < 2:
        raise ValueError(f"batch: expected at least 2 patches where two archives share a batch, got {batch}")
    seen, apart = _photographs(data, patch, "data")
    draw, judge = patches(seen, batch, patch, seed), patches(apart, batch, patch, seed)
    if beside:
        half = batch // 2
        more, more_apart = _photographs(beside, patch, "beside")
        draw = _joined(patches(seen, batch - half, patch, seed), patches(more, half, patch, seed, smallest=1.0))
        judge = _joined(patches(apart, batch - half, patch, seed), patches(more_apart, half, patch, seed, smallest=1.0))
    torch.manual_seed(seed)
    net = UNet((64, 128, 160, 208) if wide else (48, 96, 128, 192))
    return Recipe(
        flow=conditional(net, patch),
        loss=partial(flow_matching, density=logit_normal(centre, 1.5), weight=preconditioned(net)),
        data=draw,
        apart=judge,
        steps=300_000,
        rate=1e-3,
        about={"size": 256, "looks": "turned"},
    )


def _photographs(archive: Path, patch: int, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """The photographs of an archive that a patch fits into, and the last of them by name, which are held apart."""
    images = [image for _, image in pictures(archive) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"{name}: expected more than {HELD_APART} photographs of {patch} pixels or more in '{archive}', got {len(images)}"
        )
    return images[:-HELD_APART], images[-HELD_APART:]


def _joined(one: Data, other: Data) -> Data:
    """Batches whose rows are those of both."""
    return lambda index: Batch(torch.cat([one(index).clean, other(index).clean]))


def patches(images: list[Tensor], batch: int, size: int, seed: int, smallest: float = 0.6) -> Data:
    """Batches of random crops of photographs, drawn by their area, scaled at random, mirrored and turned by quarters.

    Args:
        smallest: the scale is drawn from [smallest, 1]; smaller scales break what JPEG left at the borders of its blocks.
    """
    area = torch.tensor([float(image[0].numel()) for image in images], dtype=torch.float64).cumsum(0)

    def data(index: int) -> Batch:
        generator = seeded(seed, index)
        draw = lambda n: int(torch.randint(n, (), generator=generator))  # noqa: E731
        uniform = lambda: float(torch.rand((), generator=generator, dtype=torch.float64))  # noqa: E731
        rows = []
        for _ in range(batch):
            image = images[int(torch.searchsorted(area, uniform() * area[-1], right=True).clamp(max=len(images) - 1))]
            fits = size / min(image.shape[1:])
            scale = max(smallest + (1 - smallest) * uniform(), fits)
            side = min(round(size / scale), *image.shape[1:])
            top, left = draw(image.shape[1] - side + 1), draw(image.shape[2] - side + 1)
            crop = image[:, top : top + side, left : left + side].float()
            if side != size:
                crop = interpolate(crop[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 255)
            crop = torch.rot90(crop, draw(4), (1, 2))
            rows.append(crop.flip(2) if draw(2) else crop)
        return Batch(torch.stack(rows) / 127.5 - 1)

    return data
