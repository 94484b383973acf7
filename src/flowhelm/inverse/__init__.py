"""From noise to picture through a normalising flow: token by token, or many at once. docs/normalising-flows.md says which, with figures."""

from .gs_jacobi import gs_jacobi
from .jacobi import jacobi
from .sequential import sequential
from .starflow_v import starflow_v

ALL = (sequential, jacobi, gs_jacobi, starflow_v)

__all__ = ["ALL", "gs_jacobi", "jacobi", "sequential", "starflow_v"]
