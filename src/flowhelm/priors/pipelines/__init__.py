"""Pretrained pipelines of diffusers as flows, one file per family."""

from .families import FAMILIES, family, wrap
from .hub import named
from .load import QUANTIZERS, load
from .pipeline import Pipeline

__all__ = ["FAMILIES", "QUANTIZERS", "Pipeline", "family", "load", "named", "wrap"]
