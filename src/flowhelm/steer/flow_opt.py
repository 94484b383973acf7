"""FlowOpt: optimising the source through the whole flow, without its gradient. Ronai, Kulikov & Michaeli 2025, arXiv:2510.22010, Alg. 1.

The sampler is a black box f; its Jacobian is taken for the identity:

    end <- f(z)                                                 every end is a result: stop where you like it
    z   <- z + rate grad reward(decode(end))                    with respect to end

    inversion    reward = -1/2 |f - target|^2:  z <- z - rate (f(z) - target), for the source of a given picture
    editing      the same of a flow told something else, from the source under the old condition:

        old, new = flow.bind(coat), flow.bind(dress, guidance=partial(cfg, scale=3.5))
        z = solve.inversion_start(old, clean, times[2:])        # a later start keeps more of the layout
        for step in flow_opt(new, lambda image: -(image - picture).square().flatten(1).sum(1) / 2, z, times[2:]): ...

The iteration converges where z - rate f(z) contracts: for inversion of N(m, S) if rate < 2 / lambda_max(S^1/2);
`solve.inversion_rate` estimates it for any flow. Where the flow turns a direction round (strong guidance), no rate does.

Needs   a differentiable reward
Cost    I iterations of N steps: I N evaluations, forward only, and I gradients of the reward;
        `solve.inversion_start` N + 1, `solve.inversion_rate` (1 + rounds) N per row
Paper   15 steps of which the first 2 or 3 are skipped, 9 ends (31 to invert), rate 0.0025 (FLUX) or 0.01 (SD3), squared
        distance; (N + 1) + I N evaluations in all. The rate of a measurement is in units of std^2: of A^T (A f - y). The
        smooth features, which a flow of pictures stretches most, bound the rate; fine ones then take many iterations: good
        for inverting and editing, poor for restoring from noise. The default suits the bundled prior `photos`.

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.flow_opt(flow, rewards.brightness, flow.source(noise), flow.times(6), rate=5.0))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..control import scale
from ..entry import Count, Positive, checked
from ..flow import Flow
from ..grad import differentiable, value_and_grad
from ..rng import Noise
from ..shapes import State, Times
from ..solve import Solver, integrate
from ..step import Reward, Step, run


@checked
@torch.no_grad()
def flow_opt(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    rate: Positive = 0.02,
    iterations: Count = 9,
    solver: Solver | None = None,
    plan: Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """FlowOpt: optimising the source through the whole flow, without its gradient. Ronai, Kulikov & Michaeli 2025, arXiv:2510.22010.

    Args:
        x: the first z, `(b, *shape)`, at times[0]: noise, or what `solve.inversion_start` gives.
        times: the grid of f.
        rate: of a measurement, in units of std^2; of any other reward, its factor.
        iterations: ends to compute, one more than changes of z.
        solver: makes f, any of `flowhelm.sample` that draws no noise; default: Euler steps.
        plan: z of an interrupted run (info["plan"] of its last step), to start from instead of x.

    Yields one step per iteration: t = times[-1], x = clean = f(z); info["reward"] `(b,)`, and info["plan"], the z that
    comes next, `(b, 1, *shape)` (the last one's own).

    Raises:
        ValueError: a reward without a gradient.
    """
    z, factor = x.detach() if plan is None else plan[:, 0], scale(reward, rate)
    for i in range(1, iterations + 1):
        end = run((solver or integrate)(flow, z, times, noise=noise)).x
        value, gradient = value_and_grad(lambda clean: differentiable(reward(flow.decode(clean)), clean), end)
        z = z + factor * gradient if i < iterations else z
        yield Step(i, iterations, times[-1], end, end, {"reward": value, "plan": z[:, None]})
