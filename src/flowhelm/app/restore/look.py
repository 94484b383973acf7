"""What a photograph seems to have suffered, and how it would be restored: cautiously, where nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ... import fade
from ...compression import STRONG, jpeg_quality
from ...known import ADAPTERS, PHOTOS
from ...priors import bundled
from ..files import stacks
from ..options.request import Plain
from . import blur
from .mask import believed
from .noise import LEAST_OTHER, MUCH, of_photo, unseen, word
from .presets import QUIET


class Seen(NamedTuple):
    """What is believed of a photograph.

    Attributes:
        text: a sentence. operator: to restore it with, or None: nothing that would surely help. options: of the operator.
        std: of the noise, or of what is taken for it. scratched: something lies on it.
        faded: it looks like a print that has lost its colours. packed: what JPEG did to it will be taken back.
        quiet: it is blurred, and no noise is seen in it.
    """

    text: str
    operator: str | None
    std: float
    options: Mapping[str, Plain] = {}
    scratched: bool = False
    faded: bool = False
    packed: bool = False
    quiet: bool = False

    @property
    def sure(self) -> float | None:
        """The noise of the photograph as it is; None where it has to be estimated anew: a faded one was looked at unfaded, and the network
        that knows JPEG is asked for another."""
        return None if self.faded or self.packed else self.std

    @property
    def method_options(self) -> dict[str, Plain]:
        """Of the usual method."""
        return dict(QUIET) if self.options and self.quiet else {}

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
                f"{photo} --operator deblur --kernel auto, superres or inpaint"
            )
        told = blur.typed(self.options) if self.options else f"--operator {self.operator}"
        std = "" if self.packed else f" --std {self.std:g}"  # the command finds it, and the network for it
        std += "".join(f" --{name} {value:g}" for name, value in self.method_options.items())
        return f"flowhelm restore {photo} {told}{std}{unfade}"


def look(photo: Path, prior: str = PHOTOS) -> Seen:
    """Reads a photograph and looks at its noise, its blur, its compression and its size. Raises BadInput."""
    picture = stacks.read(str(photo), channels=3)
    quality = None if picture.jpeg is None else jpeg_quality(picture.jpeg)
    height, width = picture.pixels.shape[-2:]
    flow, curve = bundled.load(prior), fade.curve_of(picture.pixels)
    faded = fade.is_sure(curve)
    picture = picture._replace(pixels=fade.unfaded(picture.pixels, curve if faded else None))
    found = of_photo(picture.pixels, flow, picture.jpeg)
    back = found.packed and ADAPTERS["jpeg"] == prior and not faded
    std, noise = float(f"{found.std(back):.3g}"), found.noise if back else found.std()
    blocks = f", JPEG of quality {quality}" + (" (strong)" if quality <= STRONG else "") if quality else ""
    text = f"{width} x {height} pixels{', grey' * picture.grey}, noise {noise:.3g} ({word(noise)}){blocks}{', faded' * faded}"
    noisy = "denoise" if max(found.blocks if back else std, noise) >= MUCH else None
    if believed(picture):  # scratches have edges of their own, which tell nothing of a blur
        return Seen(f"{text}, scratches or dust", noisy, std, scratched=True, faded=faded)
    least = max(LEAST_OTHER, blur.rounded(found.std(), picture.jpeg))
    options = blur.seen(picture, least, flow, quality)
    if options is not None:
        std, quiet = max(LEAST_OTHER, blur.rounded(found.std(), picture.jpeg, blur.SOFT)), unseen(found.std())
        return Seen(f"{text}, {blur.words(options)}", "deblur", float(f"{std:.3g}"), options, faded=faded, quiet=quiet)
    return Seen(text, noisy, std, faded=faded, packed=back and noisy is not None)
