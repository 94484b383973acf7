"""jpeg: photographs as they come out of JPEG files, and the network of a prior trained on to take back what the compression did."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..compression import noise_before
from ..flow import Flow, NetFlow
from ..known import ADAPTERS
from ..operators.jpeg import as_noise
from ..train import Batch, Data, seeded
from .photos import HELD_APART, patches
from .recipe import Recipe, from_photos, pictures

QUALITY, NOISE = (6, 96), 40 / 127.5
"""The qualities that files are saved at, and the most noise before that, pixels in [-1, 1]."""


def jpeg(data: Path, *, batch: int = 8, patch: int = 96, seed: int = 0) -> Recipe:
    """The mean of the picture that a JPEG file was made of, in one call of the network of `photos-2`.

    The level that it is told is what the file says: a sixth of a mean quantisation step, as its tables are, and the noise that is seen
    in it, as far as that goes (`compression.noise_before`). `scripts/low_rank.py` makes a small adapter of what it has learnt beyond
    `photos-2`.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        batch: patches in a batch.
        patch: their side, in pixels.
        seed: of the patches and of what is done to them.
    """
    images = [image for _, image in pictures(data) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"data: expected more than {HELD_APART} photographs of {patch} pixels or more in '{data}', got {len(images)}"
        )
    apart = packed(patches(images[-HELD_APART:], batch, patch, seed), seed)
    return Recipe(
        flow=NetFlow(from_photos(ADAPTERS["jpeg"]).to(memory_format=torch.channels_last), (3, patch, patch)),
        loss=mean_error,
        data=packed(patches(images[:-HELD_APART], batch, patch, seed), seed),
        apart=apart,
        steps=3_000,
        rate=3e-4,
        about={"size": 256},
        shown=shown(apart),
        ema=0.99,
    )


def packed(data: Data, seed: int) -> Data:
    """Batches whose conditions are the pictures as they came out of their files, the levels `(b,)` that the network is told, and those
    `(b,)` of the noise and of what the compression did together."""

    def packed_batch(index: int) -> Batch:
        generator = seeded(seed, index, purpose="files")
        clean = data(index).clean
        rows = [through_a_file(row, generator) for row in clean]
        clean, found = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        return Batch(clean, (found, torch.tensor([row[2] for row in rows]), torch.tensor([row[3] for row in rows])))

    return packed_batch


def through_a_file(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
    """`(3, h, w)` in [-1, 1] -> itself (of ten one is grey), what a JPEG file makes of it, the level that the file tells, and the true one.

    Qualities are drawn by the logarithm of 100 less the quality, since most files are good ones; half of the pictures have noise first;
    of three files one keeps all of the colours' resolution.
    """
    uniform = lambda: float(torch.rand((), generator=generator))  # noqa: E731
    least, most = (math.log(101 - quality) for quality in reversed(QUALITY))
    quality = round(101 - math.exp(least + (most - least) * uniform()))
    std = NOISE * uniform() ** 2 if uniform() < 0.5 else 0.0
    grey, whole = uniform() < 0.1, uniform() < 1 / 3
    if grey:
        clean = clean.mean(0, keepdim=True).expand(3, -1, -1)
    noise = torch.randn(clean[:1].shape if grey else clean.shape, generator=generator)
    levels = ((clean + std * noise + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=0 if whole else 2)
    found = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 127.5 - 1
    seen = noise_before(file.getvalue())
    return clean, found, math.hypot(seen, as_noise(quality)), math.hypot(std, as_noise(quality))


def restored(flow: Flow, found: Tensor, level: Tensor) -> Tensor:
    """The mean of the clean pictures `(b, 3, h, w)`, of those that came out of files and their levels `(b,)`."""
    t = 1 / (1 + level)
    return flow.ends(t.reshape(-1, 1, 1, 1) * found, t).clean


def mean_error(flow: Flow, batch: Batch, generator: torch.Generator) -> Tensor:
    """Mean squared error of each row `(b,)`, in units of the variance of its noise and of what the compression did."""
    found, level, unit = batch.condition
    each = (restored(flow, found, level) - batch.clean).square().flatten(1).mean(1)
    return each / unit**2


def shown(apart: Data) -> Callable[[nn.Module], list[tuple[str, Tensor]]]:
    """Rows of a sheet: out of the file, restored, and before."""

    def rows(net: nn.Module) -> list[tuple[str, Tensor]]:
        batch = apart(0)
        found, level, _ = batch.condition
        mean = restored(NetFlow(net, tuple(batch.clean.shape[1:])), found, level)
        return [("file", found), ("restored", mean), ("clean", batch.clean)]

    return rows
