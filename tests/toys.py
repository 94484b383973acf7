"""Small things that most tests need."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flowhelm.path import VP, linear, trig
from flowhelm.priors import bundled
from flowhelm.priors.unet import UNet

PATHS = pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(net, std: float = 0.1):
    """The network with random weights: some begin at zero, which would hide mistakes."""
    for weight in net.parameters():
        nn.init.normal_(weight, std=std)
    return net


def ramps(path: Path, width: int, height: int, *slopes: int) -> Path:
    """A photograph: a ramp to the right, one down, and their sum, each repeated from 0 where it passes 255."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([part * slope for part, slope in zip((x, y, x + y), slopes, strict=True)], -1)
    Image.fromarray((pixels % 256).astype(np.uint8)).save(path)
    return path


def loaded(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic and dataclasses look names up
    spec.loader.exec_module(module)
    return module


def little_prior(folder: Path) -> Path:
    """The file of a very small prior of two classes, trained on nothing."""
    torch.manual_seed(0)
    net = UNet((8, 8), blocks=1, channels=1, classes=2)
    for each in net.parameters():
        each.data += 0.1 * torch.randn_like(each)
    path = folder / "little.safetensors"
    bundled.save(net, path, {"classes": ["bag", "coat"], "size": 16, "scale": 1.5})
    return path
