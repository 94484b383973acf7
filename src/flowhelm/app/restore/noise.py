"""How noisy a photograph is, where nobody has said it; and what there is to say of that."""

from __future__ import annotations

import math

from torch import Tensor

from ...flow import NetFlow
from ...noise_level import Denoise, noise_level, one_call
from ...priors.pipelines import Pipeline
from ..files.pictures import Picture
from .presets import STD

PHOTOGRAPHS = ("denoise", "inpaint", "deblur", "motion", "superres", "colorize")
"""Operators whose measurement is a photograph with the same noise everywhere; the noise of others cannot be seen in it."""
LEAST = {"denoise": 0.005}
"""What is taken at least: rounding, and of other operators that they are never known exactly."""
_LEAST = 0.01
_WORDS = ((0.012, "hardly any"), (0.05, "slight"), (0.15, "marked"), (math.inf, "strong"))


def estimated(operator: str, picture: Picture, flow: NetFlow | Pipeline | None) -> float:
    """The standard deviation of the noise to restore a photograph with."""
    if operator not in PHOTOGRAPHS:
        return STD
    found = level(picture.pixels, flow)
    return float(f"{max(found, LEAST.get(operator, _LEAST)):.3g}")


def level(pixels: Tensor, flow: NetFlow | Pipeline | None) -> float:
    """The standard deviation of the noise in pixels `(1, c, h, w)`."""
    fits = isinstance(flow, NetFlow) and not flow.null and flow.shape[0] == pixels.shape[1]
    return noise_level(pixels, _denoise(flow) if fits and isinstance(flow, NetFlow) else None)


def _denoise(flow: NetFlow) -> Denoise:
    def denoise(picture: Tensor, std: float) -> Tensor:
        place = next(flow.net.parameters()).device
        return one_call(flow.sized(*picture.shape[-2:]))(picture.to(place), std).cpu()

    return denoise


def sentence(std: float) -> str:
    """What a person is told."""
    return f"the picture's noise was estimated as {std:g} ({word(std)}); set --std to change it"


def word(std: float) -> str:
    return next(word for most, word in _WORDS if std <= most)
