"""What a recipe returns, and what several recipes need."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as fn

from ..bijection import Bijection
from ..flow import NetFlow
from ..masked import Masked
from ..priors.bundled import load
from ..priors.unet import UNet
from ..train import Alone, Data, Loss


class Recipe(NamedTuple):
    """A training, ready for `train.fit`.

    Attributes:
        flow: over a fresh network; or what else is trained, a prior over tokens or a tokenizer. loss, data: for `fit`. apart: batches
            that are never trained on.
        steps, rate: those of the bundled weights, or what they would be with more time. about: what the weights' file says of itself.
        ema: of the moving average, for `fit`: shorter for short runs.
        shown: of a network that no pictures are drawn from: rows of (label, pictures) that show what it does.
    """

    flow: NetFlow | Bijection | Masked | Alone
    loss: Loss
    data: Data
    apart: Data
    steps: int
    rate: float
    about: dict[str, Any]
    shown: Callable[[nn.Module], list[tuple[str, Tensor]]] | None = None
    ema: float = 0.999


def preconditioned(net: UNet) -> Callable[[Tensor], Tensor]:
    """The weight that measures the loss in units of what a Gaussian prior leaves: C / d^2 of `priors.unet`."""
    return lambda t: (t**2 * net.data_std**2 + (1 - t) ** 2) / net.data_std**2


def from_photos(prior: str = "photos", *, classes: int = 0, words: int = 0, numbers: int = 0) -> UNet:
    """The network of a bundled prior of photographs with conditions added, which have no effect at first.

    Textures and edges are those of photographs at any size, so a small set only has to teach what goes where.

    Args:
        prior: its name.
        classes, words, numbers: as for `UNet`.
    """
    start = load(prior).net
    config: dict[str, Any] = dict(start.config) | {"classes": classes, "words": words, "numbers": numbers}  # type: ignore[arg-type]
    net = UNet(tuple(config.pop("widths")), **config)
    net.load_state_dict(net.state_dict() | start.state_dict())
    return net


def conditional(net: UNet, size: int) -> NetFlow:
    """The flow over square pictures of a network that may have conditions."""
    return NetFlow(net.to(memory_format=torch.channels_last), (net.config["channels"], size, size), null=net.null)


def grey(data: Path, images: str, labels: str) -> tuple[Tensor, Tensor]:
    """Two arrays of an .npz: pictures 28 x 28 as `(n, 1, 32, 32)` uint8, padded with black so that they halve, and labels `(n,)`."""
    try:
        with np.load(data, allow_pickle=False) as f:
            x, y = torch.from_numpy(f[images]), torch.from_numpy(f[labels]).long()
        if x.shape != (len(y), 28, 28) or x.dtype != torch.uint8:
            raise ValueError(f"{images} of {x.dtype} {tuple(x.shape)}")
    except (KeyError, ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"data: expected {images}, {labels} (an .npz file, uint8, 28 x 28) in '{data}', got {error}"
        ) from None
    return fn.pad(x[:, None], (2, 2, 2, 2)), y


def pictures(archive: Path, keep: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """(name, uint8 `(3, h, w)`) of the archive's pictures that are to be kept, sorted by name; grey ones become colour."""
    if not archive.is_file() or not zipfile.is_zipfile(archive):
        raise ValueError(f"data: expected a zip archive of pictures, got '{archive}'")
    with zipfile.ZipFile(archive) as z:
        for name in sorted(n for n in z.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")) and keep(n)):
            try:
                image = Image.open(io.BytesIO(z.read(name))).convert("RGB")
            except (OSError, zipfile.BadZipFile) as error:
                raise ValueError(f"data: '{name}' in '{archive}' is no readable picture ({error})") from None
            yield name, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def squares(rows: Iterable[tuple[str, Tensor]], side: int) -> Tensor:
    """Pictures of one size as a tensor `(n, 3, side, side)`. Raises ValueError that names the first of another size."""
    out = []
    for name, picture in rows:
        if picture.shape[-2:] != (side, side):
            height, width = picture.shape[-2:]
            raise ValueError(
                f"data: expected pictures of {side} x {side}, got {width} x {height} in '{name}'; scale it"
            )
        out.append(picture)
    return torch.stack(out)
