"""Archives of small photographs, and an exact prior over small pictures."""

import zipfile

import numpy as np
import pytest
import torch
from encoded import encoded
from toys import seeded

from flowhelm.flow import MixtureFlow


@pytest.fixture
def archived(tmp_path):
    def make(*names):
        draw = np.random.default_rng(0)
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
            for name in names:
                z.writestr(f"{name}.png", encoded(draw.integers(0, 256, (18, 26, 3), dtype=np.uint8)))
        return tmp_path / "photos.zip"

    return make


@pytest.fixture
def blobs() -> MixtureFlow:
    """An exact prior over pictures of 8 x 8."""
    root = torch.randn(2, 64, 6, generator=seeded(3)) / 4
    covariance = root @ root.mT + 0.01 * torch.eye(64)
    return MixtureFlow(torch.tensor([0.5, 0.5]), 0.3 * torch.ones(2, 64), covariance, shape=(1, 8, 8))
