"""Edits of a flow: Flow -> Flow. They compose; each leaves everything but the velocity as it was."""

from .chunked import chunked
from .counted import Count, counted
from .on_path import on_path
from .tiled import tiled

ALL = (chunked, counted, on_path, tiled)

__all__ = ["ALL", "Count", "chunked", "counted", "on_path", "tiled"]
