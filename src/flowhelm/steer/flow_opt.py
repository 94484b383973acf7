"""FlowOpt: optimising the source through the whole flow, without its gradient. Ronai, Kulikov & Michaeli 2025, arXiv:2510.22010, Alg. 1.

The sampler is a black box f; its Jacobian is taken for the identity:

    end <- f(z)                                                 every end is a result: stop where you like it
    z   <- z + rate grad reward(decode(end))                    with respect to end

    inversion    reward = -1/2 |f - target|^2:  z <- z - rate (f(z) - target), for the source of a given picture
    editing      the same of a flow told something else, from the source under the old condition:

        old, new = flow.bind(coat), flow.bind(dress, guidance=partial(cfg, scale=3.5))
        z = inversion_start(old, clean, times[2:])              # a later start keeps more of the layout
        for step in flow_opt(new, lambda image: -(image - picture).square().flatten(1).sum(1) / 2, z, times[2:]): ...

The iteration converges where z - rate f(z) contracts: for inversion of N(m, S) if rate < 2 / lambda_max(S^1/2); `bound`
estimates it for any flow. Where the flow turns a direction round (strong guidance), no rate does.

Needs   a differentiable reward
Cost    I iterations of N steps: I N evaluations, forward only, and I gradients of the reward;
        `inversion_start` N + 1, `bound` (1 + rounds) N per row
Paper   15 steps of which the first 2 or 3 are skipped, 9 ends (31 to invert), rate 0.0025 (FLUX) or 0.01 (SD3), squared
        distance; (N + 1) + I N evaluations in all. The rate of a measurement is in units of std^2: of A^T (A f - y). The
        smooth features, which a flow of pictures stretches most, bound the rate; fine ones then take many iterations: good
        for inverting and editing, poor for restoring from noise. The default suits the bundled prior `photos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..control import differentiable, scale
from ..flow import Flow
from ..grad import dot, per_row, value_and_grad
from ..rng import Noise
from ..solve import integrate
from ..step import Reward, Step, run


@torch.no_grad()
def flow_opt(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    *,
    rate: float = 0.02,
    iterations: int = 9,
    plan: Tensor | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Args:
    x: the first z, `(b, *shape)`, at times[0]: noise, or what `inversion_start` gives; times: the grid of f.
    rate: of a measurement, in units of std^2; of any other reward, its factor; see `bound`.
    iterations: ends to compute, one more than changes of z.
    plan: z of an interrupted run (info["plan"] of its last step), to start from instead of x.

    Yields one step per iteration: t = times[-1], x = clean = f(z); info["reward"] `(b,)`, and info["plan"], the z that
    comes next, `(b, 1, *shape)` (the last one's own).

    Raises:
        ValueError: a rate that is not above 0, no iterations, a reward without a gradient.
    """
    if not rate > 0 or iterations < 1:
        raise ValueError(f"flow_opt: expected a rate above 0 and at least 1 iteration, got {rate} and {iterations}")
    z, factor = x.detach() if plan is None else plan[:, 0], scale(reward, rate)
    for i in range(1, iterations + 1):
        end = _end(flow, z, times)
        value, gradient = value_and_grad(lambda clean: differentiable(reward(flow.decode(clean)), clean), end)
        z = z + factor * gradient if i < iterations else z
        yield Step(i, iterations, times[-1], end, end, {"reward": value, "plan": z[:, None]})


@torch.no_grad()
def inversion_start(flow: Flow, clean: Tensor, times: Tensor) -> Tensor:
    """The state at times[0] whose end is about `clean` `(b, *shape)`; the grid as for sampling. N + 1 evaluations.

    Uni-Inv (Jiao et al. 2025, arXiv:2504.13109): backwards, each step's velocity is taken where the last one's leads, near to
    where sampling will take it. It holds where the iterations of `solve.invert` run away (few steps, a steep end).
    The first velocity is taken at times[-2], not at 1, where some paths have none.
    """
    x = clean
    v = flow.velocity(x, times[-2])
    for t, s in pairwise(times.flip(0)):
        v = flow.velocity(x + (s - t) * v, s)
        x = x + (s - t) * v
    return x


@torch.no_grad()
def bound(flow: Flow, times: Tensor, z: Tensor, *, rounds: int = 3, safety: float = 0.5) -> float:
    """A rate at which inversion converges: safety * min 2 <dz, df> / |df|^2 over pairs of sources.

    |dz - rate df| < |dz| where rate is below that. Random pairs alone miss the few directions that a flow of pictures
    stretches most, so that in each round every row is paired with itself moved as its last pair's ends differ (power
    iterations): (1 + rounds) N evaluations per row. It holds for every reward whose second derivative is at most 1.

    Args:
        z: sources at times[0], `(n, *shape)`, at least 2; each is paired with each first.
        safety: the flow is known where it was sampled only.

    Raises:
        ValueError: fewer than 2 rows, or a pair that the flow turns round: no rate is safe for it.
    """
    if len(z) < 2:
        raise ValueError(f"bound: expected at least 2 rows, got {len(z)}; draw more sources")
    f = _end(flow, z, times)
    a, b = torch.triu_indices(len(z), len(z), 1)
    found = [_safe(z[a] - z[b], f[a] - f[b])]
    dz, df = z - z.roll(1, 0), f - f.roll(1, 0)
    for _ in range(rounds):
        dz = per_row((dot(dz, dz) / dot(df, df)).sqrt(), z) * df
        df = _end(flow, z + dz, times) - f
        found.append(_safe(dz, df))
    rate = float(torch.cat(found).min())
    if not rate > 0:
        raise ValueError(
            "bound: expected a flow that keeps the direction of differences, got a pair that it turns round; "
            "weaken the guidance, or start later"
        )
    return safety * rate


def _safe(dz: Tensor, df: Tensor) -> Tensor:
    return 2 * dot(dz, df) / dot(df, df)


def _end(flow: Flow, z: Tensor, times: Tensor) -> Tensor:
    return run(integrate(flow, z, times)).x
