"""Distillation: losses, loss(student, batch, generator, *, teacher, ...) -> (b,), which `train.fit` descends.

    loss = partial(arc_flow, teacher=teacher)
    for update in train.fit(student, loss, learning.empty(32), steps=2000): ...

A student begins as its teacher (`priors.student`, `arc`, `pi`), is a flow and a flow map, and has the teacher's guidance inside.
"""

from ..solve import refined
from .arc_flow import arc_flow
from .consistency import consistency
from .flow_turbo import flow_turbo
from .free_flow import Watched, free_flow
from .mdt_dist import mdt_dist
from .mean_flow import mean_flow
from .pi_flow import pi_flow
from .reflow import paired, pairs, reflow
from .straighten import straighten

ALL = (arc_flow, pi_flow, free_flow, mean_flow, mdt_dist, consistency, reflow, straighten, flow_turbo)

__all__ = ["ALL", "Watched", "paired", "pairs", "refined", *(loss.__name__ for loss in ALL)]
