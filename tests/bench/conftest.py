"""An archive of small photographs."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def archive(tmp_path):
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
        for name in ("CBSD68/b.png", "CBSD68/a.png", "Set5/c.png", "Other/d.png"):
            held = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (18, 26, 3), dtype=np.uint8)).save(held, "PNG")
            z.writestr(name, held.getvalue())
    return tmp_path / "photos.zip"
