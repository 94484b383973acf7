"""Archives of small photographs."""

import zipfile

import numpy as np
import pytest
from encoded import encoded


@pytest.fixture
def archived(tmp_path):
    def make(*names):
        draw = np.random.default_rng(0)
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
            for name in names:
                z.writestr(f"{name}.png", encoded(draw.integers(0, 256, (18, 26, 3), dtype=np.uint8)))
        return tmp_path / "photos.zip"

    return make
