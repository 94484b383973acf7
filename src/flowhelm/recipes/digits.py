"""digits: handwritten digits, 32 x 32, conditioned on which; the first training to try, minutes on a laptop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..priors.unet import UNet
from ..train import flow_matching, shuffled
from ..train.times import logit_normal
from .recipe import Recipe, conditional, grey, preconditioned

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_APART = 1000  # the last ones of the file


def digits(data: Path, *, batch: int = 64, seed: int = 0) -> Recipe:
    """A class-conditional prior over the test part of MNIST (LeCun et al. 1998), of which the last 1000 are held apart.

    Args:
        data: mnist_t10k.npz with images `(n, 28, 28)` uint8 and labels.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
    """
    sets = whole(data)
    torch.manual_seed(seed)
    net = UNet((24, 48, 96), 1, channels=1, data_std=0.6, classes=len(CLASSES))
    return Recipe(
        flow=conditional(net, 32),
        loss=partial(flow_matching, density=logit_normal(0.5, 1.4), weight=preconditioned(net), drop=0.1),
        data=shuffled(*sets["train"], batch=batch, seed=seed),
        apart=shuffled(*sets["test"], batch=batch, seed=seed),
        steps=1500,
        rate=2e-3,
        about={"classes": CLASSES, "size": 32, "scale": 2.0},
        ema=0.99,
    )


def whole(data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Both parts, "train" and "test": pictures `(n, 1, 32, 32)` uint8 and labels `(n,)`, in the file's order."""
    clean, labels = grey(data, "images", "labels")
    if len(clean) < 2 * HELD_APART or not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise ValueError(
            f"data: expected at least {2 * HELD_APART} digits with labels 0 to 9 in '{data}', got {len(clean)} with "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    return {"train": (clean[:-HELD_APART], labels[:-HELD_APART]), "test": (clean[-HELD_APART:], labels[-HELD_APART:])}
