"""moving_digits: eight grey frames of 16 x 16 of a digit that moves and bounces, told the digit; a normalising flow over videos."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from ..bijection import Bijection
from ..entry import Count, Positive, guarded
from ..priors.tarflow import TarFlow
from ..train import Batch, Data, seeded
from ..train.tarflow import tarflow
from .recipe import Recipe

FRAMES, SIZE, DIGIT = 8, 16, 10
CLASSES = tuple(map(str, range(10)))


@guarded
def moving_digits(data: Path, *, batch: Count = 16, seed: int = 0, noise: Positive = 0.1) -> Recipe:
    """A class-conditional STARFlow-V (arXiv:2511.20462) over digits of MNIST that move.

    Args:
        data: mnist_t10k.npz with images `(n, 28, 28)` uint8 and labels, of which the last fifth is held apart.
        batch: videos in a batch.
        seed: of the network's first weights and of the data.
        noise: standard deviation of the noise that frames in [-1, 1] are trained with.
    """
    digits, labels = read(data)
    cut = len(digits) * 4 // 5
    torch.manual_seed(seed)
    net = TarFlow(SIZE, 4, 1, (1, 1, 4), 64, heads=4, classes=10, frames=FRAMES)
    return Recipe(
        flow=Bijection(net, net.shape, noise, null=net.null),
        loss=partial(tarflow, drop=0.1),
        data=moving(digits[:cut], labels[:cut], batch=batch, seed=seed),
        apart=moving(digits[cut:], labels[cut:], batch=batch, seed=seed),
        steps=20_000,
        rate=2e-3,
        about={"classes": CLASSES, "scale": 1.0, "noise": noise},
    )


def read(data: Path) -> tuple[Tensor, Tensor]:
    """Digits `(n, 1, 10, 10)` in [0, 1], cut out and made small, and labels `(n,)`, in the file's order."""
    if data.suffix != ".npz" or not data.is_file():
        raise ValueError(f"data: expected mnist_t10k.npz, got '{data}'")
    try:
        with np.load(data, allow_pickle=False) as f:
            names = ("images", "labels") if "images" in f else ("test_images", "test_labels")
            images, labels = (torch.from_numpy(f[name]) for name in names)
        if images.shape != (len(labels), 28, 28) or images.dtype != torch.uint8:
            raise ValueError(f"images of {images.dtype} {tuple(images.shape)}")
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"data: expected images and labels (uint8, 28 x 28) in '{data}', got {error}") from None
    return fn.interpolate(images[:, None, 4:24, 4:24].float() / 255, (DIGIT, DIGIT), mode="area"), labels.long()


def moving(digits: Tensor, labels: Tensor, *, batch: int, seed: int) -> Data:
    """Batches of videos `(b, 8, 1, 16, 16)` in [-1, 1]: a digit from anywhere, one pixel a frame in each direction or none, bouncing."""

    def data(index: int) -> Batch:
        g = seeded(seed, index, purpose="moving")
        rows = torch.randint(len(digits), (batch,), generator=g)
        room = SIZE - DIGIT
        place, speed = torch.randint(room + 1, (batch, 2), generator=g), torch.randint(-1, 2, (batch, 2), generator=g)
        video = torch.zeros(batch, FRAMES, 1, SIZE, SIZE)
        for k in range(FRAMES):
            way = (place + k * speed) % (2 * room)  # there and back
            at = torch.where(way > room, 2 * room - way, way)
            for row, (top, left) in enumerate(at.tolist()):
                video[row, k, :, top : top + DIGIT, left : left + DIGIT] = digits[rows[row]]
        return Batch(2 * video - 1, (labels[rows],))

    return data
