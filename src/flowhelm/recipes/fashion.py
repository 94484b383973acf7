"""fashion: grey pictures of clothes, 32 x 32, conditioned on their class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..priors.unet import UNet
from ..train import flow_matching, shuffled
from ..train.times import logit_normal
from .recipe import Recipe, conditional, grey, preconditioned

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion(data: Path, *, batch: int = 64, seed: int = 0) -> Recipe:
    """A class-conditional prior over Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence).

    Pictures are padded with black from 28 to 32 pixels, so that they halve three times.

    Args:
        data: fashion_mnist.npz with train_images `(n, 28, 28)` uint8, train_labels, test_images, test_labels.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
    """
    sets = whole(data)
    torch.manual_seed(seed)
    net = UNet((48, 96, 192), channels=1, data_std=0.8, classes=len(CLASSES))
    return Recipe(
        flow=conditional(net, 32),
        loss=partial(flow_matching, density=logit_normal(0.5, 1.4), weight=preconditioned(net), drop=0.1),
        data=shuffled(*sets["train"], batch=batch, seed=seed, flip=True),
        apart=shuffled(*sets["test"], batch=batch, seed=seed),
        steps=20_000,
        rate=1e-3,
        about={"classes": CLASSES, "size": 32, "scale": 2.0},
    )


def whole(data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Both parts, "train" and "test": pictures `(n, 1, 32, 32)` uint8 and labels `(n,)`, in the file's order."""
    return {part: grey(data, f"{part}_images", f"{part}_labels") for part in ("train", "test")}
