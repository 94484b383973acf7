"""animals: small colour pictures of twelve animals, 64 x 64, conditioned on their class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..train import flow_matching, shuffled
from ..train.times import logit_normal
from .recipe import Recipe, conditional, from_photos, pictures, preconditioned, squares

CLASSES = (
    "brown bear", "chihuahua", "egyptian cat", "german shepherd", "golden retriever", "labrador", "lesser panda", "lion",
    "persian cat", "standard poodle", "tabby", "yorkshire terrier",
)  # fmt: skip


def animals(data: Path, *, batch: int = 16, seed: int = 0) -> Recipe:
    """A class-conditional prior over twelve classes of Tiny ImageNet (non-commercial terms).

    Args:
        data: zip archive with train/CLASS/*.JPEG and val/CLASS/*.JPEG, 64 x 64.
        batch: pictures in a batch.
        seed: of the data's order; the network begins with the weights of `photos`.
    """
    sets = whole(data)
    torch.manual_seed(seed)
    net = from_photos(classes=len(CLASSES))
    return Recipe(
        flow=conditional(net, 64),
        loss=partial(flow_matching, density=logit_normal(0.0, 1.2), weight=preconditioned(net), drop=0.1),
        data=shuffled(*sets["train"], batch=batch, seed=seed, flip=True),
        apart=shuffled(*sets["test"], batch=batch, seed=seed),
        steps=200_000,
        rate=1e-3,
        about={"classes": CLASSES, "size": 64, "scale": 4.0, "looks": "mirrored"},
    )


def whole(data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Both parts, "train" and "test" (the archive's val): pictures `(n, 3, 64, 64)` uint8 and labels `(n,)`, by name."""
    folder = {name.replace(" ", "_"): index for index, name in enumerate(CLASSES)}
    sets = {}
    for part, where in (("train", "train"), ("test", "val")):
        rows = list(pictures(data, lambda name: name.startswith(f"{where}/")))  # noqa: B023  (used up at once)
        if not rows:
            raise ValueError(f"data: expected {where}/CLASS/*.JPEG in '{data}', found none")
        found = [name.split("/")[1] for name, _ in rows]
        strange = sorted(set(found) - folder.keys())
        if strange:
            raise ValueError(f"data: expected the folders {', '.join(folder)} in '{data}', got {where}/{strange[0]}")
        sets[part] = squares(rows, 64), torch.tensor([folder[name] for name in found])
    return sets
