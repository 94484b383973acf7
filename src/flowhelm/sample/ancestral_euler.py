"""Ancestral Euler: a step down, and fresh noise on top, for rectified flows. Karras et al. 2022, arXiv:2206.00364, as in k-diffusion.

    sigma_d = sigma+ (1 + (sigma+ / sigma - 1) eta)            an Euler step to sigma_d, where alpha_d = 1 - sigma_d
    x       <- (alpha+ / alpha_d) x_d + sqrt(sigma+^2 - (sigma_d alpha+ / alpha_d)^2) noise

Needs   any prior; a Noise
Cost    1 evaluation per step
Paper   From public code (k-diffusion, ComfyUI), where only this form keeps the scale of the picture on rectified flows; the ancestral
        step of variance-exploding models does not. eta = 1 is close to, not the same as, DDPM's (`transition.ancestral`). Random:
        the picture of a seed changes with the steps.

Example

    from flowhelm import Noise, load, run, sample
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(sample.ancestral_euler(flow, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Fraction, checked
from ..flow import Flow
from ..multistep.past import Past
from ..multistep.variables import CLEAN_LOG
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def ancestral_euler(
    flow: Flow, x: State, times: Times, *, eta: Fraction = 1.0, noise: Noise | None = None
) -> Iterator[Step]:
    """Ancestral Euler: a step down, and fresh noise on top. Karras et al. 2022, arXiv:2206.00364.

    Args:
        x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        eta: share of the noise that is fresh: 0 is Euler, 1 the most.

    Yields one step per time, with the clean estimate of its start; info is empty.
    """
    past, total = Past(flow.path, CLEAN_LOG, 1), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        past.add(ends, s)
        keep = past.ancestral(t, eta)
        x = past.noised(past.step(x, t, past.slope(t), keep), t, keep, noise, "ancestral_euler")
        yield Step(i, total, t, x, ends.clean, {})
