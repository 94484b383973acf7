"""Small things that most tests need."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowhelm.path import VP, linear, trig
from flowhelm.priors import bundled
from flowhelm.priors.unet import UNet

PATHS = pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def little_prior(folder: Path) -> Path:
    """The file of a very small prior of two classes, trained on nothing."""
    torch.manual_seed(0)
    net = UNet((8, 8), blocks=1, channels=1, classes=2)
    for each in net.parameters():
        each.data += 0.1 * torch.randn_like(each)
    path = folder / "little.safetensors"
    bundled.save(net, path, {"classes": ["bag", "coat"], "size": 16, "scale": 1.5})
    return path
