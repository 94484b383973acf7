"""FIG: flow with interpolant guidance. Yan, Zhang, Meng & Zhao 2025 (ICLR, OpenReview fs2Z2z3GRx), and its FIG+.

The measurement is mixed with the source as the state is, and the state is held to the mixture:

    seen <- alpha_t y + w sigma_t A noise
    x    <- x + (t - s) v(x, s)
    x    <- x - c (sigma_s / alpha_s) grad_x |A x - seen|                     `inner` times, c = rate sqrt(numbers that y sees)
    x    <- x + mix (I - A^+ A) (alpha_t clean + sigma_t noise - x)           FIG+: where y says nothing

Neither the step out of t = 0 nor the one into t = 1 is corrected.

Needs   a linear measurement on a pixel prior, since A is applied to noisy states; mix > 0: a pseudo-inverse
Cost    1 evaluation per step, forward only; `inner` times A and its adjoint
Paper   50 steps, w 0; on 256 x 256 faces (inner, c) = (1, 20) or (5, 20) for super-resolution, (25, 10) Gaussian blur,
        (14, 25) or (3, 25) motion blur, (2, 10) or (1, 10) inpainting (article and released code differ). The default
        here is FIG+ with its mix of 0.95; mix 0 is FIG.
        The step on the norm is absolute there; `rate` counts it per number seen (c = 10 at 256 x 256 is 0.023), so
        that it holds for any size and mask, and no step is longer than |A x - seen|, beyond which it leaps over the solution of
        |A| = 1. The norm is that of a row, there of the batch; w goes with sigma_t, in the code with sigma_s.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.superres(flow.shape, factor=2), picture, 0.05, noise)
    final = run(restore.fig(flow, y, flow.source(noise), flow.times(20), noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import dot, per_row
from ..measure import LinearOperator, Measurement
from ..path import Ends, at
from ..prox import solvable
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step
from ..transition import euler, renoise


@checked
@torch.no_grad()
def fig(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    rate: Positive = 0.03,
    inner: Count = 10,
    w: NonNegative = 0.0,
    mix: Fraction = 0.95,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """FIG: flow with interpolant guidance. Yan, Zhang, Meng & Zhao 2025 (ICLR, OpenReview fs2Z2z3GRx).

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        rate: length of a gradient step per square root of the numbers that y sees, in image units.
        inner: how many gradient steps each step of the grid makes.
        w: how much noise the measurement is mixed with; 0 mixes none, and more needs `noise`.
        mix: share of what y does not see that is drawn anew (FIG+); 0 is FIG, and more needs `noise`.

    Yields steps with info["misfit"], 1/2 |A clean - y|^2, `(b,)`.

    Raises:
        ValueError: a non-linear operator or a prior with a decoder; no noise for w or mix.
    """
    if not (solvable(flow, y) and isinstance(y.operator, LinearOperator)):
        raise ValueError(
            "fig: expected a linear measurement on a pixel prior, because the operator is applied to noisy states; "
            "use flow_dps or pnp_flow for another"
        )
    if (w or mix) and noise is None:
        raise ValueError(
            f"fig: expected a Noise where w or mix is not 0, got None with mix={mix} and w={w}; pass noise="
        )
    total, operator = len(times) - 1, y.operator
    size, target = y.count(len(x)).double().sqrt(), y.seen(len(x)) * y.repeated(len(x))
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        x = euler(flow, x, s, t, ends=ends)
        a, b = at(flow.path, s, x), at(flow.path, t, x)
        if a.alpha > 0 and b.sigma > 0:
            seen = b.alpha * target
            if w and noise:
                seen = seen + w * b.sigma * operator.A(noise(x))
            reach = (rate * size * a.sigma / a.alpha).to(x)
            for _ in range(inner):
                residual = operator.A(x) - seen
                length = dot(residual, residual).sqrt()
                step = (reach / length.clamp(min=1e-12)).clamp(max=1.0)
                x = x - per_row(step, x) * operator.A_adjoint(residual)
            if mix:
                unseen = renoise(flow, x, s, t, noise, Ends(ends.source, ends.clean), amount=1.0) - x
                x = x + mix * (unseen - operator.A_dagger(operator.A(unseen)))
        yield Step(i, total, t, x, ends.clean, {"misfit": y.misfit(ends.clean)})
