"""DualFast: a fast solver whose newest prediction is extrapolated from an earlier one. Yu et al. 2025, arXiv:2506.13058.

    p_i' = p_i + c_i (p_i - p_reference)       in the zeroth-order term of the base solver; its differences stay raw

Needs   any prior
Cost    that of the base solver; memory: 1 prediction more
Paper   The network errs more at later times, so the prediction is corrected with an earlier one; over DDIM, DPM-Solver, DPM-Solver++
        and UniPC. Deviations: the schedule of c is ours, since its own was not to be had: with the first step as reference it rises
        evenly from 0 to `strength`, with the previous one it is constant; velocities by default, where `epsilon`, the paper's form,
        divides by alpha. With the previous step, c = 1/2 and DDIM it is Adams-Bashforth 2: docs/sampling.md says how much of its
        gain is plain extrapolation.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.dual_fast(flow, flow.source(noise), flow.times(6), base=sample.unipc))
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from ..entry import NonNegative, checked
from ..flow import Flow
from ..multistep import slopes
from ..multistep.slopes import refuse
from ..rng import Noise
from ..shapes import State, Times
from ..solve import Solver
from ..step import Step
from .ab import ab


@checked
def dual_fast(
    flow: Flow,
    x: State,
    times: Times,
    *,
    base: Solver = ab,
    strength: NonNegative = 0.3,
    reference: Literal["first", "previous"] = "first",
    form: Literal["velocity", "epsilon"] = "velocity",
    noise: Noise | None = None,
) -> Iterator[Step]:
    """DualFast: a fast solver whose newest prediction is extrapolated from an earlier one. Yu et al. 2025, arXiv:2506.13058.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        base: the multi-step solver: ab (with order=1: DDIM), dpm, unipc, deis or res, with its options.
        strength: c, at the last step if the reference is the first.
        reference: whose prediction is extrapolated from.
        form: what is extrapolated: the velocity, or the predicted noise.

    Yields the steps of the base solver.

    Raises:
        ValueError: a base that is no multi-step solver, or that transforms its slopes already.
    """
    refuse("dual_fast", base)
    turned = partial(slopes.dual_fast, strength=strength, reference=reference, form=form)
    return base(flow, x, times, slope=turned, noise=noise)
