"""FlowEdit: from picture to picture without inversion. Kulikov, Kleiner, Huberman-Spiegelglas & Michaeli 2024, arXiv:2412.08629, Alg. 1.

The picture moves by the difference of two velocities, each where noise would have put it:

    x <- clean
    n <- fresh noise, `draws` of them                               averaged over
    a <- interpolate(n, clean, t),   b <- a + x - clean             the old picture and the edited one, noised alike
    x <- x + (s - t) mean[ v_new(b, t) - v_old(a, t) ]

Needs   two conditions of one prior, a path on which clean and noise are added
Cost    N steps: `draws` N evaluations of each flow; no backward
Paper   FLUX 28 steps of which the first 4 are left out, guidance 1.5 and 5.5; SD3 50 of which 17 are left out, 3.5 and 13.5; draws 1.
        Its last n_min steps by plain sampling are 0 there and left out here.
Limits  What changes is what the two conditions disagree on; with strong guidance colours run over.

Example

    from flowhelm import edit, load, run, solve
    prior, noise = load("fashion"), flowhelm.Noise(0, rows=1)
    old, new = prior.told(["coat"]), prior.told(["dress"])
    clean = run(solve.integrate(old, old.source(noise), old.times(6))).clean
    final = run(edit.flow_edit(new, old, clean, new.times(6)[1:], noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import Count, checked
from ..flow import Flow
from ..path import mix
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def flow_edit(new: Flow, old: Flow, clean: Tensor, times: Tensor, *, draws: Count = 1, noise: Noise) -> Iterator[Step]:
    """FlowEdit: from picture to picture without inversion. Kulikov, Kleiner, Huberman-Spiegelglas & Michaeli 2024, arXiv:2412.08629.

    Args:
        new, old: a prior under what the picture should show, and under what it shows.
        clean: the picture, as a state `(b, *shape)`.
        times: the grid; a later start keeps more of the picture.
        draws: of noise in a step.
        noise: a stream per row.

    Yields one Step per step of the grid: x = clean = the picture, edited so far.
    """
    x = clean
    for k, (t, s) in enumerate(pairwise(times), 1):
        moves = []
        for _ in range(draws):
            a = mix(new.path, new.source(noise).to(clean), clean, t)
            b = a + x - clean
            moves.append(new.velocity(b, t) - old.velocity(a, t))
        x = x + (s - t) * torch.stack(moves).mean(0)
        yield Step(k, len(times) - 1, s, x, x)
