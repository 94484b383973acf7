"""fashion_tarflow: grey pictures of clothes, 28 x 28, conditioned on their class; a normalising flow, no flow in time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ..bijection import Bijection
from ..entry import Count, Positive, guarded
from ..priors.tarflow import TarFlow
from ..train import shuffled
from ..train.tarflow import tarflow
from .fashion import CLASSES, whole
from .recipe import Recipe


@guarded
def fashion_tarflow(
    data: Path, *, batch: Count = 32, seed: int = 0, noise: Positive = 0.1, width: Count = 64, deep: Count = 4
) -> Recipe:
    """A class-conditional TarFlow in STARFlow's deep-shallow layout (arXiv:2412.06329, arXiv:2506.06276) over Fashion-MNIST (MIT licence).

    Args:
        data: fashion_mnist.npz with train_images `(n, 28, 28)` uint8, train_labels, test_images, test_labels.
        batch: pictures in a batch.
        seed: of the network's first weights and of the data's order.
        noise: standard deviation of the noise that pictures in [-1, 1] are trained with.
        width: of the transformers, a multiple of 32.
        deep: layers of the block next to the noise; the three others have one each.
    """
    if width % 32:
        raise ValueError(f"width: expected a multiple of 32, got {width}")
    sets = {part: (images[..., 2:-2, 2:-2], labels) for part, (images, labels) in whole(data).items()}
    torch.manual_seed(seed)
    net = TarFlow(28, 4, 1, (1, 1, 1, deep), width, max(1, width // 32), classes=len(CLASSES))
    return Recipe(
        flow=Bijection(net, (1, 28, 28), noise, null=net.null),
        loss=partial(tarflow, drop=0.1),
        data=shuffled(*sets["train"], batch=batch, seed=seed, flip=True),
        apart=shuffled(*sets["test"], batch=batch, seed=seed),
        steps=20_000,
        rate=2e-3,
        about={"classes": CLASSES, "scale": 2.0, "noise": noise},
    )
