"""codec: a small compressor of photographs, as a prior for `restore.vble`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..entry import Positive
from ..flow import NetFlow
from ..priors.hyperprior import Hyperprior
from ..train import Data, rate_distortion
from .photos import HELD_APART, patches
from .recipe import Recipe, pictures


def codec(data: Path, *, price: Positive = 0.05, batch: int = 8, patch: int = 64, seed: int = 0) -> Recipe:
    """A hyperprior auto-encoder (arXiv:1802.01436) over patches of photographs, for pictures of any size.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        price: bits per pixel that one 8-bit level of squared error is worth: .0035 (short files) to .18 (long ones).
        batch: patches in a batch.
        patch: their side, in pixels, a multiple of 16.
        seed: of the network's first weights and of the patches.
    """
    images = [image for _, image in pictures(data) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"data: expected more than {HELD_APART} photographs of {patch} pixels or more in '{data}', got {len(images)}"
        )
    if patch % 16:
        raise ValueError(f"patch: expected a multiple of 16, got {patch}")
    torch.manual_seed(seed)
    apart = patches(images[-HELD_APART:], batch, patch, seed)
    return Recipe(
        flow=NetFlow(Hyperprior().to(memory_format=torch.channels_last), (3, patch, patch)),
        loss=partial(rate_distortion, price=price),
        data=patches(images[:-HELD_APART], batch, patch, seed),
        apart=apart,
        steps=3_000,
        rate=1e-3,
        about={"size": 256, "price": price},
        shown=shown(apart),
        ema=0.99,
    )


def shown(apart: Data, pictures_: int = 6) -> Callable[[nn.Module], list[tuple[str, Tensor]]]:
    """Rows of pictures held apart: as they were, and as they come out of their rounded latents."""
    clean = apart(0).clean[:pictures_]

    def rows(net: nn.Module) -> list[tuple[str, Tensor]]:
        z: Tensor = net.encode(clean.to(next(net.parameters())))  # type: ignore[operator]
        return [("clean", clean), ("decoded", net.decode(z.round()).cpu())]  # type: ignore[operator]

    return rows
