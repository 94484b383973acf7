"""SDEdit: the picture is noised, and drawn again from there. Meng, He, Song, Song, Wu, Zhu & Ermon 2022, arXiv:2108.01073, Alg. 1.

    x <- the picture with the noise of times[0]
    x <- the flow under the new condition, from x

Needs   a condition of a prior
Cost    N steps: N evaluations of the new flow; no backward
Paper   500 steps of which the last 30 to 60 % are made, by the reversed SDE; here by the flow, or by any solver. Users know it as image to
        image with a strength, which is 1 - times[0] here.
Limits  The plainest rival of every editing method: what the noise covers is forgotten, and the old condition is not asked.

Example

    from flowhelm import edit, load, run, solve
    prior, noise = load("fashion"), flowhelm.Noise(0, rows=1)
    old, new = prior.told(["coat"]), prior.told(["dress"])
    clean = run(solve.integrate(old, old.source(noise), old.times(6))).clean
    final = run(edit.sdedit(new, old, clean, new.times(6)[1:], noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import checked
from ..flow import Flow
from ..path import mix
from ..rng import Noise
from ..solve import Solver, integrate
from ..step import Step


@checked
@torch.no_grad()
def sdedit(
    new: Flow, old: Flow, clean: Tensor, times: Tensor, *, solver: Solver | None = None, noise: Noise
) -> Iterator[Step]:
    """SDEdit: the picture is noised, and drawn again from there. Meng, He, Song, Song, Wu, Zhu & Ermon 2022, arXiv:2108.01073, Alg. 1.

    Args:
        new: a prior under what the picture should show; old: not used.
        clean: the picture, as a state `(b, *shape)`.
        times: the grid; a later start keeps more of the picture.
        solver: any of `flowhelm.sample`; default: Euler steps.
        noise: a stream per row.

    Yields the solver's Steps.
    """
    start = mix(new.path, new.source(noise).to(clean), clean, times[0])
    yield from (solver or integrate)(new, start, times, noise=noise)
