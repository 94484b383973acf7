"""HB: a multi-step solver under heavy-ball momentum. Wizadwongsa et al. 2023, arXiv:2307.11118, section 4.1.

    e = the base solver's slope
    u <- (1 - beta) u + beta e       from u = e
    x <- the base solver's step with u in the place of e

Needs   any prior
Cost    that of the base solver; memory: 1 state more
Paper   beta 0.9 (0.8 for stronger guidance), over Adams-Bashforth, DPM-Solver++, UniPC and others. The order falls to 1; what it buys is a
        larger region of stability. Deviation: where the base has a corrector, that makes the step's average again with its own slope
        (in the authors' UniPC the momentum acts in the corrector only).

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.hb(flow, flow.source(noise), flow.times(8), beta=0.8))
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..entry import Fraction, checked
from ..flow import Flow
from ..multistep.slopes import momentum, refuse
from ..rng import Noise
from ..shapes import State, Times
from ..solve import Solver
from ..step import Step
from .ab import ab


@checked
def hb(
    flow: Flow,
    x: State,
    times: Times,
    *,
    base: Solver = ab,
    beta: Fraction = 0.8,
    nesterov: bool = False,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """HB: a multi-step solver under heavy-ball momentum. Wizadwongsa et al. 2023, arXiv:2307.11118.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        base: the multi-step solver: ab, dpm, unipc, deis or res, with its options.
        beta: 1 is no momentum.
        nesterov: move with the next u that the same slope would give.

    Yields the steps of the base solver.

    Raises:
        ValueError: a base that is no multi-step solver, or that transforms its slopes already.
    """
    refuse("hb", base)
    return base(flow, x, times, slope=partial(momentum, beta=beta, nesterov=nesterov), noise=noise)
