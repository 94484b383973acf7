"""FlowOpt's editing: the source is moved until its end is near the picture. Ronai, Kulikov & Michaeli 2025, arXiv:2510.22010, Alg. 1.

    z <- the source of the picture under the old condition (`solve.inversion_start`)
    f <- the flow under the new one, from z                         every f is a result: stop where you like it
    z <- z - rate (f - clean)

Needs   two conditions of one prior
Cost    N steps, I iterations: N + 1 evaluations of the old flow, I N of the new one; no backward
Paper   15 steps of which the first 2 or 3 are left out, 9 ends, rate 0.0025 (FLUX) or 0.01 (SD3), guidance 1 and 3.5. It converges where
        z - rate f(z) contracts; `solve.inversion_rate` finds such a rate. 0.05 is for the small pictures of the bundled priors.
Limits  The first end is the edit by plain inversion; later ones are nearer to the picture, and less edited: at a rate of 0.3 the
        ninth end is the picture itself.

Example

    from flowhelm import edit, load, run, solve
    prior = load("fashion")
    old, new = prior.told(["coat"]), prior.told(["dress"])
    clean = run(solve.integrate(old, old.source(flowhelm.Noise(0, rows=1)), old.times(6))).clean
    final = run(edit.flow_opt_edit(new, old, clean, new.times(6)[1:], iterations=2))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import Count, Positive, checked
from ..flow import Flow
from ..rng import Noise
from ..solve import Solver, integrate, inversion_start
from ..step import Step, run


@checked
@torch.no_grad()
def flow_opt_edit(
    new: Flow,
    old: Flow,
    clean: Tensor,
    times: Tensor,
    *,
    rate: Positive = 0.05,
    iterations: Count = 9,
    solver: Solver | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """FlowOpt's editing: the source is moved until its end is near the picture. Ronai, Kulikov & Michaeli 2025, arXiv:2510.22010.

    Args:
        new, old: a prior under what the picture should show, and under what it shows.
        clean: the picture, as a state `(b, *shape)`.
        times: the grid; a later start keeps more of the picture.
        rate: of the source's moves.
        iterations: ends to compute, one more than moves.
        solver: makes an end, any of `flowhelm.sample` that draws no noise; default: Euler steps.
        noise: not used.

    Yields one Step per iteration: t = times[-1], x = clean = the end; info["distance"] `(b,)`, root mean square, to the picture.
    """
    z = inversion_start(old, clean, times)
    for i in range(1, iterations + 1):
        end = run((solver or integrate)(new, z, times, noise=noise)).x
        z = z - rate * (end - clean)
        yield Step(i, iterations, times[-1], end, end, {"distance": (end - clean).square().flatten(1).mean(1).sqrt()})
