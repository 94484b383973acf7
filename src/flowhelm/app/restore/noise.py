"""How noisy a photograph is, where nobody has said it; and what there is to say of that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, TypeGuard

from torch import Tensor

from ...compression import STRONG, jpeg_quality, noise_before
from ...flow import NetFlow
from ...noise_level import Denoise, noise_level, one_call, repetition
from ...operators.jpeg import as_noise
from ...priors.pipelines import Pipeline
from ..files.pictures import Picture
from ..run import Event, Noted, Warned
from .presets import STD

PHOTOGRAPHS = ("denoise", "inpaint", "deblur", "motion", "superres", "colorize")
"""Operators whose measurement is a photograph with the same noise everywhere; the noise of others cannot be seen in it."""
SEEN = 3.5 / 127.5, 0.75
"""Noise before a compression below which what is found may as well be texture: so much, and so large a share of what the compression
counts as."""
REGULAR, TRIAL = 0.25, 256
"""How far what the prior would take for noise in the middle of a picture, of so many pixels a side, repeats itself if it is a pattern."""
FINE = 98
"""The quality of a JPEG file above which there is nothing to take back."""
MUCH = 0.02
"""Noise that is worth the trouble: two and a half 8-bit levels."""
LEAST = {"denoise": 0.005}
"""What is taken at least: rounding, and of other operators that they are never known exactly."""
LEAST_OTHER = 0.01
_WORDS = ((0.012, "hardly any"), (0.05, "slight"), (0.15, "marked"), (math.inf, "strong"))


def unseen(std: float) -> bool:
    """Whether a level is no more than LEAST_OTHER when it is written with three figures, as `estimated` and `look` tell it."""
    return float(f"{std:.3g}") <= LEAST_OTHER


def estimated(
    operator: str, picture: Picture, flow: NetFlow | Pipeline | None, alone: bool = False
) -> tuple[float, bool]:
    """The standard deviation of the noise to restore a photograph with, and whether the adapter `jpeg` is to do it.

    Args:
        alone: it is one call of the prior that the adapter is of.
    """
    if operator not in PHOTOGRAPHS:
        return STD, False
    found = of_photo(picture.pixels, flow, picture.jpeg)
    packed = alone and found.packed
    return float(f"{max(found.std(packed), LEAST.get(operator, LEAST_OTHER)):.3g}"), packed


class Level(NamedTuple):
    """What is found in a photograph, as standard deviations: its noise, before a compression if it was seen there; what JPEG did, as
    noise; whether that counts for a prior that does not know JPEG: of strong blocks, and where noise was compressed with them; whether
    the adapter `jpeg` is for it; and the noise that the file tells of, texture or not, as the adapter was trained with."""

    noise: float
    blocks: float = 0.0
    counts: bool = False
    packed: bool = False
    before: float = 0.0

    def std(self, packed: bool = False) -> float:
        """What is to be taken for noise; `packed`: by a network that knows what JPEG does, and what it does to noise."""
        if packed:
            return math.hypot(self.blocks, self.before)
        return math.hypot(self.noise, self.blocks) if self.counts else self.noise


def of_photo(pixels: Tensor, flow: NetFlow | Pipeline | None, photo: Path | bytes | None) -> Level:
    """The noise of a photograph, pixels `(1, c, h, w)`, and what its compression did, if it comes from a JPEG file."""
    found, quality = level(pixels, flow), None if photo is None else jpeg_quality(photo)
    if photo is None or quality is None:
        return Level(found)
    before, blocks = noise_before(photo), as_noise(quality)
    noisy = before >= SEEN[0] + SEEN[1] * blocks
    if noisy and fits(flow, pixels) and _regular(pixels, flow, math.hypot(before, blocks)):
        return Level(found, blocks)  # what the compression did to it looks like it
    return Level(max(found, before) if noisy else found, blocks, noisy or quality <= STRONG, quality <= FINE, before)


def _regular(pixels: Tensor, flow: NetFlow, std: float) -> bool:
    """Whether what looks like noise of that level is fine stripes or cloth: then what the prior takes out of it repeats itself."""
    top, left = ((side - min(side, TRIAL)) // 2 for side in pixels.shape[-2:])
    middle = pixels[..., top : top + TRIAL, left : left + TRIAL]
    return repetition(middle - _denoise(flow)(middle, std)) > REGULAR


def level(pixels: Tensor, flow: NetFlow | Pipeline | None) -> float:
    """The standard deviation of the noise in pixels `(1, c, h, w)`."""
    return noise_level(pixels, _denoise(flow) if fits(flow, pixels) else None)


def fits(flow: NetFlow | Pipeline | None, pixels: Tensor) -> TypeGuard[NetFlow]:
    """Whether a prior is one of such pictures without more being said, over pixels."""
    return isinstance(flow, NetFlow) and not flow.null and flow.shape[0] == pixels.shape[1]


def _denoise(flow: NetFlow) -> Denoise:
    def denoise(picture: Tensor, std: float) -> Tensor:
        place = next(flow.net.parameters()).device
        return one_call(flow.sized(*picture.shape[-2:]))(picture.to(place), std).cpu()

    return denoise


def told(std: float, unseen: bool, packed: bool = False) -> Event:
    """What a person is told of an estimate; `unseen`: by a method that repairs whatever it sees, and is not told the noise."""
    if packed:
        return Noted(
            f"what JPEG did to the picture, and noise before it, count as noise of {std:g} ({word(std)}); the adapter jpeg takes both back"
        )
    if not unseen:
        return Noted(f"the picture's noise was estimated as {std:g} ({word(std)}); set --std to change it")
    if std >= MUCH:
        return Noted(f"the picture's noise was estimated as {std:g} ({word(std)}); this method finds the damage itself")
    return Warned(
        f"the picture's noise was estimated as {std:g} ({word(std)}); if it is not blurred or compressed either, this method makes it "
        "worse: keep the photo then"
    )


def word(std: float) -> str:
    return next(word for most, word in _WORDS if std <= most)
