"""What methods that tune and distil share: batches, trajectories, choices of steps, slopes of rewards, adjoints, copies, descent."""

from .adjoints import backwards
from .advantages import Spread, advantages, shared
from .batches import Batch, Data, empty
from .copies import Copy
from .descent import Clip, Descent
from .slopes import ended, judged, limits, slopes
from .trajectories import begin, chosen, one, stopped, walk

__all__ = [
    "Batch",
    "Clip",
    "Copy",
    "Data",
    "Descent",
    "Spread",
    "advantages",
    "backwards",
    "begin",
    "chosen",
    "empty",
    "ended",
    "judged",
    "limits",
    "one",
    "shared",
    "slopes",
    "stopped",
    "walk",
]
