"""How small a picture is as JPEG (Black et al. 2024, arXiv:2305.13301, section 5.1)."""

from __future__ import annotations

import io
from dataclasses import dataclass

from ..shapes import Image, PerSample
from .blackbox import levels


@dataclass(frozen=True)
class Compressibility:
    """Minus the size as JPEG, in kB (1000 bytes). For incompressibility: `Combined([(-1.0, Compressibility())])`.

    Args:
        quality: of Pillow's JPEG, 1 to 95; the paper's code has 95.

    Black box. Pictures of 1 or 3 channels; sizes grow with the number of pixels.
    """

    quality: int = 95
    differentiable = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"Compressibility: expected a quality of 1 to 95, got {self.quality}")

    def __call__(self, image: Image) -> PerSample:
        from PIL import Image

        if image.shape[1] not in (1, 3):
            raise ValueError(f"Compressibility: expected pictures of 1 or 3 channels, got {image.shape[1]}")
        sizes = []
        for picture in levels("Compressibility", image):
            file = io.BytesIO()
            Image.fromarray(picture.squeeze(2).numpy()).save(file, format="JPEG", quality=self.quality)
            sizes.append(file.tell() / 1000)
        return -image.new_tensor(sizes)
