"""Edits of a flow: Flow -> Flow. They compose; each leaves everything but the velocity (`pruned`: the source) as it was.

`GUIDANCES` join two velocities, `(given, without, t) -> velocity`; a network takes one with `bind(..., guidance=...)`.
"""

from .cfg import cfg
from .cfg_zero import cfg_zero
from .chunked import chunked
from .counted import Count, counted
from .diverse import diverse
from .minority import minority
from .on_path import on_path
from .pruned import PrunedSource, pruned
from .raag import raag
from .rare import rare
from .reused import reused
from .rewarded import rewarded
from .tiled import tiled

ALL = (chunked, counted, diverse, minority, on_path, pruned, rare, reused, rewarded, tiled)
GUIDANCES = (cfg, raag, cfg_zero)

__all__ = [
    "ALL",
    "GUIDANCES",
    "Count",
    "PrunedSource",
    "cfg",
    "cfg_zero",
    "chunked",
    "counted",
    "diverse",
    "minority",
    "on_path",
    "pruned",
    "raag",
    "rare",
    "reused",
    "rewarded",
    "tiled",
]
