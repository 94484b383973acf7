"""blind: photographs with a mixture of damages that nobody wrote down, restored without being told which."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as fn

from ..flow import NetFlow
from ..priors.pair import Pair
from ..train import Batch, Data, pmrf, seeded
from .photos import HELD_APART, patches
from .recipe import Recipe, pictures

BLUR, SHRINK, NOISE, QUALITY = 1.5, 2.0, 0.3, (30, 95)
"""The most of each damage: blur in pixels, shrinking, noise with pixels in [-1, 1], and the qualities of JPEG."""


def blind(data: Path, *, batch: int = 8, patch: int = 64, spread: float = 0.1, seed: int = 0) -> Recipe:
    """A regressor and a rectified flow (PMRF, arXiv:2410.00418) for photographs with blur, shrinking, noise and JPEG, each by chance.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        batch: patches in a batch.
        patch: their side, in pixels.
        spread: noise between the mean and the flow's source, with pixels in [-1, 1].
        seed: of the networks' first weights, of the patches and of the damages.
    """
    images = [image for _, image in pictures(data) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"data: expected more than {HELD_APART} photographs of {patch} pixels or more in '{data}', got {len(images)}"
        )
    torch.manual_seed(seed)
    net = Pair(spread=spread).to(memory_format=torch.channels_last)
    apart = paired(patches(images[-HELD_APART:], batch, patch, seed), seed)
    return Recipe(
        flow=NetFlow(net, (3, patch, patch)),
        loss=partial(pmrf, spread=spread, scale=net.unit),
        data=paired(patches(images[:-HELD_APART], batch, patch, seed), seed),
        apart=apart,
        steps=3_000,
        rate=1.5e-3,
        about={"size": 256},
        shown=shown(apart),
        ema=0.99,
    )


def paired(data: Data, seed: int) -> Data:
    """Batches whose first condition is the damaged picture."""

    def damaged_batch(index: int) -> Batch:
        batch = data(index)
        return batch._replace(condition=(damaged(batch.clean, seeded(seed, index, purpose="damage")),))

    return damaged_batch


def damaged(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures `(b, 3, h, w)` in [-1, 1] with damages drawn for each row, clamped and rounded to 8 bits.

    In this order, each with probability 1/2 but noise with 4/5: a Gaussian blur of 0.3 to 1.5 pixels; a shrinking by 1 to 2 and
    back; noise of 0.02 to 0.3; JPEG of quality 30 to 95.
    """
    uniform = lambda: float(torch.rand((), generator=generator))  # noqa: E731
    rows = []
    for each in clean.cpu().split(1):
        row, size = each, each.shape[-2:]
        if uniform() < 0.5:
            row = _blurred(row, 0.3 + (BLUR - 0.3) * uniform())
        if uniform() < 0.5:
            factor = 1 + (SHRINK - 1) * uniform()
            small = [max(1, round(side / factor)) for side in size]
            row = fn.interpolate(row, small, mode="bicubic", antialias=True)
            row = fn.interpolate(row, size, mode="bicubic")
        if uniform() < 0.8:
            std = 0.02 + (NOISE - 0.02) * uniform()
            row = row + std * torch.randn(row.shape, generator=generator)
        quality = QUALITY[0] + round((QUALITY[1] - QUALITY[0]) * uniform()) if uniform() < 0.5 else None
        rows.append(_stored(row[0], quality))
    return torch.stack(rows).to(clean)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    weights = (-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    x = fn.pad(x, (reach, reach, reach, reach), mode="replicate")
    return fn.conv2d(fn.conv2d(x, weights, groups=x.shape[1]), weights.mT, groups=x.shape[1])


def _stored(x: Tensor, quality: int | None) -> Tensor:
    """In 8 bits, as JPEG if a quality is given."""
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    if quality is not None:
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "jpeg", quality=quality)
        levels = np.asarray(Image.open(file)).copy()
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 127.5 - 1


def shown(apart: Data, pictures_: int = 6, steps: int = 5) -> Callable[[nn.Module], list[tuple[str, Tensor]]]:
    """Rows of pictures held apart: damaged, their means, restored with a few steps, and as they were."""
    batch = apart(0)
    clean, bad = batch.clean[:pictures_], batch.condition[0][:pictures_]
    noise = torch.randn(clean.shape, generator=seeded(0, 0, purpose="shown"))

    def rows(net: nn.Module) -> list[tuple[str, Tensor]]:
        weight: Tensor = next(net.parameters())
        mean: Tensor = net.mean(bad.to(weight))  # type: ignore[operator]
        x = mean + net.spread * noise.to(weight)  # type: ignore[operator]
        for i in range(steps):
            x = x + net(x, torch.full((len(x),), i / steps, device=x.device)) / steps
        parts = {"damaged": bad, "mean": mean.cpu(), "restored": x.cpu(), "clean": clean}
        return list(parts.items())

    return rows
