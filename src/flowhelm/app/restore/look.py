"""What a photograph seems to have suffered, and how it would be restored: cautiously, where nothing else is said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...priors import bundled
from ..files import stacks
from ..files.compression import STRONG, jpeg_quality
from . import fade
from .mask import believed
from .noise import of_photo, word

NOISE = 0.02
"""Noise that is worth the trouble: two and a half 8-bit levels."""


class Seen(NamedTuple):
    """What is believed of a photograph.

    Attributes:
        text: a sentence. operator: to restore it with, or None: nothing that would surely help.
        std: of the noise, or of what is taken for it. scratched: something lies on it.
        faded: it looks like a print that has lost its colours.
    """

    text: str
    operator: str | None
    std: float
    scratched: bool = False
    faded: bool = False

    def line(self, photo: str) -> str:
        """What to type."""
        if self.scratched:
            return f"flowhelm mask {photo} shows what looks like scratches or dust, and the line that fills them in"
        unfade = " --unfade" * self.faded
        if self.operator is None and self.faded:
            return f"flowhelm restore {photo}{unfade}"
        if self.operator is None:
            return (
                "nothing is surely wrong with it; if it is blurred, small or scratched, say so: flowhelm restore "
                f"{photo} --operator deblur --sigma 1.6, superres or inpaint"
            )
        return f"flowhelm restore {photo} --operator {self.operator} --std {self.std:g}{unfade}"


def look(photo: Path, prior: str = "photos") -> Seen:
    """Reads a photograph and looks at its noise, its compression and its size. Raises BadInput."""
    picture = stacks.read(str(photo), channels=3)
    quality = None if picture.jpeg is None else jpeg_quality(picture.jpeg)
    height, width = picture.pixels.shape[-2:]
    curve = fade.curve_of(picture.pixels)
    faded = fade.is_sure(curve)
    std = float(
        f"{of_photo(fade.unfaded(picture.pixels, curve if faded else None), bundled.load(prior), picture.jpeg):.3g}"
    )
    blocks = f", JPEG of quality {quality}" + (" (strong)" if quality <= STRONG else "") if quality else ""
    text = f"{width} x {height} pixels{', grey' * picture.grey}, noise {std:g} ({word(std)}){blocks}"
    scratched = believed(picture)
    text += ", faded" * faded + ", scratches or dust" * scratched
    return Seen(text, "denoise" if std >= NOISE else None, std, scratched, faded)
