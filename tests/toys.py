"""Small things that most tests need."""

import pytest
import torch
from torch import Tensor

from flowhelm.path import VP, linear, trig

PATHS = pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])


def double(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
