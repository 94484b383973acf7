"""Pretrained pipelines of diffusers as flows, one file per family."""

from .load import FAMILIES, QUANTIZERS, family, load, named, wrap
from .pipeline import Pipeline

__all__ = ["FAMILIES", "QUANTIZERS", "Pipeline", "family", "load", "named", "wrap"]
