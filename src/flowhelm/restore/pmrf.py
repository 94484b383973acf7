"""PMRF: posterior-mean rectified flow. Ohayon, Michaeli & Elad 2025, arXiv:2410.00418, Alg. 1 (inference).

    mean <- regressor(measured);   x <- mean + spread source        at t = 0
    x    <- x + (t - s) v(x, s),   v = E[clean - x_0 | x_s]         which does not see what was measured

The regressor is E[clean | measured], as sharp as the squared error lets it be; the flow moves its answers, as little as it can, until they
look like pictures. Among estimators whose answers have the law of pictures the least squared error is MMSE + W2^2(pictures, means), the
optimal transport's; posterior samples pay 2 MMSE. Where the flow is that transport (exact for normal laws that commute), PMRF is that
estimator as spread -> 0.

Needs   a paired flow trained for such damage (`flowhelm train blind`, `paired.PairedFlow`); a measurement that is a picture, or linear
Cost    1 evaluation of the regressor, then 1 of the velocity per step, forward only
Paper   spread 0.1 for pictures in [0, 1] (0.025 for noise alone), 25 steps; what the prior was trained with is used here. The means are
        not clamped to the range of pictures. The regressor is given y; where y has another shape, its pseudo-inverse. Training
        is `train.pmrf`. The more steps, the more detail, and the larger the squared error. `amount` is ours: the error of a mix
        is MMSE + amount^2 times what the flow adds to it.

Example

    from flowhelm import Noise, begin, load, operators, restore, run, simulate
    flow, noise = load("blind").sized(32, 32), Noise(0, rows=1)
    y = simulate(operators.denoise(flow.shape), 0.5 * noise(flow.source(noise)), 0.2, noise)
    final = run(restore.pmrf(flow, y, *begin(restore.pmrf, flow, y, 5, noise)))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import Fraction, NonNegative, checked
from ..flow import Flow
from ..measure import LinearOperator, Measurement
from ..paired import Paired, within
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def pmrf(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    spread: NonNegative | None = None,
    amount: Fraction = 1.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """PMRF: posterior-mean rectified flow. Ohayon, Michaeli & Elad 2025, arXiv:2410.00418.

    Args:
        x: standard normal noise `(b, *shape)` at times[0] = 0, or the state of a later step; times: the grid.
        spread: standard deviation of the noise between mean and source; None for what the prior was trained with.
        amount: share of the way from the mean to the flow's answer that the last step gives; 0 is the mean itself.

    Yields steps whose clean is where the velocity points; info["moved"], root mean square distance from the mean so far, `(b,)`.

    Raises:
        ValueError: a flow without a regressor, or a measurement that is not linear and no picture of the flow's shape.
    """
    pair = within(flow, Paired)  # type: ignore[type-abstract]
    if pair is None:
        raise ValueError(
            "pmrf: expected a prior with a regressor, such as blind, got one without; train one with flowhelm train blind"
        )
    mean = pair.mean(_picture(flow, y, len(x)))
    if times[0] == 0:
        x = mean + (pair.spread if spread is None else spread) * x
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        v = flow.velocity(x, s)
        clean, x = x + (1 - s) * v, x + (t - s) * v
        if i == total:
            x = mean + amount * (x - mean)
        yield Step(i, total, t, x, clean, {"moved": (x - mean).square().flatten(1).mean(1).sqrt()})


def _picture(flow: Flow, y: Measurement, rows: int) -> Tensor:
    """What was measured, as a picture for each row."""
    measured = y.repeated(rows)
    if measured.shape[1:] == flow.shape:
        return measured
    if isinstance(y.operator, LinearOperator):
        return y.operator.A_dagger(measured)
    raise ValueError(
        f"pmrf: expected a picture of shape {tuple(flow.shape)} or a linear measurement, got {tuple(measured.shape[1:])}"
    )
