"""Training: one loop, `fit`, and losses that are functions: `loss(flow, batch, generator) -> (b,)`."""

from .data import Batch, Data, seeded, shuffled
from .fit import Loss, fit
from .flow_matching import Coupling, Source, dropped, flow_matching, normal

__all__ = [
    "Batch",
    "Coupling",
    "Data",
    "Loss",
    "Source",
    "dropped",
    "fit",
    "flow_matching",
    "normal",
    "seeded",
    "shuffled",
]
