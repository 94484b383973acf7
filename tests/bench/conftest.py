"""Archives of small photographs."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def archived(tmp_path):
    def make(*names):
        draw = np.random.default_rng(0)
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
            for name in names:
                held = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (18, 26, 3), dtype=np.uint8)).save(held, "PNG")
                z.writestr(f"{name}.png", held.getvalue())
        return tmp_path / "photos.zip"

    return make
