"""Rewards: picture `(b, c, h, w)` in [-1, 1] -> `(b,)`, higher is better, one per row. Any callable of that shape is one.

A `Measurement` is one, too (its log-likelihood): `Measurement(grey, operators.colorize(shape), std)` constrains the luminance.
"""

from .combined import Combined
from .palette import Palette
from .region import Region
from .style import Style
from .vision import Vision, vision

__all__ = ["Combined", "Palette", "Region", "Style", "Vision", "vision"]
