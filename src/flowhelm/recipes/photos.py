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
    data: Path, *, batch: int = 8, patch: int = 96, wide: bool = False, centre: float = 0.8, seed: int = 0
) -> Recipe:
    """A fully convolutional prior over patches of photographs, for pictures of any size.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        batch: patches in a batch.
        patch: their side, in pixels.
        wide: a network of a third more channels, which costs a call 1.4 times as much.
        centre: the log-odds of time that training visits most: 0.8 is noise of 57 grey levels, 1.5 of 28.
        seed: of the network's first weights and of the patches.
    """
    images = [image for _, image in pictures(data) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"data: expected more than {HELD_APART} photographs of {patch} pixels or more in '{data}', got {len(images)}"
        )
    torch.manual_seed(seed)
    net = UNet((64, 128, 160, 208) if wide else (48, 96, 128, 192))
    return Recipe(
        flow=conditional(net, patch),
        loss=partial(flow_matching, density=logit_normal(centre, 1.5), weight=preconditioned(net)),
        data=patches(images[:-HELD_APART], batch, patch, seed),
        apart=patches(images[-HELD_APART:], batch, patch, seed),
        steps=300_000,
        rate=1e-3,
        about={"size": 256, "looks": "turned"},
    )


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
