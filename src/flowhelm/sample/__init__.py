"""Solvers: ways to sample a prior, method(flow, x, times, *, ...) -> Iterator[Step]."""

from .bottleneck import bottleneck

ALL = (bottleneck,)

__all__ = ["ALL", *(method.__name__ for method in ALL)]
