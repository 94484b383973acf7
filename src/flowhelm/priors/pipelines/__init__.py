"""Pretrained pipelines of diffusers as flows, one file per family."""

from .load import FAMILIES, family, load, wrap
from .pipeline import Pipeline

__all__ = ["FAMILIES", "Pipeline", "family", "load", "wrap"]
