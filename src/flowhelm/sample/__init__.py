"""Solvers: ways to sample a prior, method(flow, x, times, *, ...) -> Iterator[Step]. docs/sampling.md says which, with figures."""

from .ab import ab
from .ancestral_euler import ancestral_euler
from .bottleneck import bottleneck
from .deis import deis
from .dpm import dpm
from .dual_fast import dual_fast
from .er_sde import er_sde
from .flow_turbo import flow_turbo
from .ghvb import ghvb
from .hb import hb
from .jumps import jumps
from .one_step import euler, heun, midpoint, rk4
from .picard import picard
from .pseudo import pseudo
from .res import res
from .rk45 import rk45
from .unipc import unipc
from .unmasking import unmasking

ALL = (
    euler, midpoint, heun, rk4, pseudo, rk45,  # one step after another
    ab, dpm, unipc, deis, res,  # several past predictions to a step
    ghvb, hb, dual_fast,  # their slopes transformed
    ancestral_euler, er_sde,  # with fresh noise
    picard,  # many steps at once
    jumps, flow_turbo,  # with a student
    bottleneck,  # in stages of several sizes
)  # fmt: skip

TOKENS = (unmasking,)
"""Of priors over tokens, which the others do not take."""

__all__ = ["ALL", "TOKENS", *(solver.__name__ for solver in (*ALL, *TOKENS))]
