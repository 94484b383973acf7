"""What the methods that tune a prior share: trajectories, choices among their steps, slopes of rewards, adjoints, copies, descent."""

from .adjoints import backwards
from .advantages import Spread, advantages, shared
from .copies import Copy
from .descent import Clip, Descent
from .slopes import ended, judged, limits, slopes
from .trajectories import begin, chosen, stopped, walk

__all__ = [
    "Clip",
    "Copy",
    "Descent",
    "Spread",
    "advantages",
    "backwards",
    "begin",
    "chosen",
    "ended",
    "judged",
    "limits",
    "shared",
    "slopes",
    "stopped",
    "walk",
]
