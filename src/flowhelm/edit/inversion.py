"""Editing by inversion: back to the source under the old condition, forth under the new one. Song, Meng & Ermon 2021, arXiv:2010.02502.

    z <- the source of the picture under the old condition (`solve.inversion_start`)
    x <- the flow under the new one, from z

Needs   two conditions of one prior
Cost    N steps: N + 1 evaluations of the old flow, N of the new one; no backward
Paper   DDIM's inversion, 50 steps; here Uni-Inv's step (arXiv:2504.13109), which few steps hurt less. It is the first end of FlowOpt.
Limits  With guidance the way forth is not the way back, and the layout drifts; a later start keeps more of it.

Example

    from flowhelm import edit, load, run, solve
    prior = load("fashion")
    old, new = prior.told(["coat"]), prior.told(["dress"])
    clean = run(solve.integrate(old, old.source(flowhelm.Noise(0, rows=1)), old.times(6))).clean
    final = run(edit.inversion(new, old, clean, new.times(6)[1:]))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import checked
from ..flow import Flow
from ..rng import Noise
from ..solve import Solver, integrate, inversion_start
from ..step import Step


@checked
@torch.no_grad()
def inversion(
    new: Flow, old: Flow, clean: Tensor, times: Tensor, *, solver: Solver | None = None, noise: Noise | None = None
) -> Iterator[Step]:
    """Editing by inversion: back to the source under the old condition, forth under the new one. Song, Meng & Ermon 2021, arXiv:2010.02502.

    Args:
        new, old: a prior under what the picture should show, and under what it shows.
        clean: the picture, as a state `(b, *shape)`.
        times: the grid; a later start keeps more of the picture.
        solver: of the way forth, any of `flowhelm.sample`; default: Euler steps.
        noise: of a solver that draws some.

    Yields the solver's Steps.
    """
    yield from (solver or integrate)(new, inversion_start(old, clean, times), times, noise=noise)
