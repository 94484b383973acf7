"""Priors: adapters that make a network or a pipeline a `Flow`, and the small ones that ship with the package."""

from .bundled import NAMES, load

__all__ = ["NAMES", "load"]
