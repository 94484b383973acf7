"""Flow-Priors (ICTM): iterative corrupted-trajectory matching. Zhang, Yu, Zhu, Chang, Gao & Li 2024, arXiv:2405.18816, Alg. 1.

The state at every time is the most probable one, given a measurement of the trajectory that the flow would take to y:

    y'  <- t' y + (1 - t') A source                                                  t' = t + h
    x   <- argmin  strength/2 |A (x + h v(x, t)) - y'|^2 + h tr dv/dx - log p_t(x)   by a few iterations of Adam
    x   <- x + h v(x, t)

by the change of variables log p_t'(x + h v) = log p_t(x) - h tr dv/dx + O(h^2). The trace is Hutchinson's e^T (dv/dx) e with
random signs e; the gradient of log p_t is the score (t v - x) / (1 - t), which is not differentiated again.

Needs   differentiable operator; a prior on the linear path that can be differentiated twice
Cost    1 + `inner` evaluations per step, each of `inner` differentiated twice (2 `inner` backwards, of which one is of second
        order: about four passes through the network, and the activations of two)
Paper   N = 100, 1 Adam iteration at rate 0.01 (0.1 for super-resolution), lambda on |.|^2: 100 denoise, 1e3 deblur, 1e4 others:
        strength = 2 lambda. Fresh moments make one iteration of Adam a step by the sign of the gradient, so the rate is how
        far each pixel may move. At t = 0, -log p is |x|^2 / 2, whose gradient the score's formula gives as it stands.
        The residual is written t' (A decode((x' - (1 - t') source) / t') - y): the paper's where A is linear and there is no
        decoder, and defined where not.

Example

    from flowhelm import Noise, integrate, load, operators, restore, run, simulate
    flow, noise = load("fashion"), Noise(0, rows=1)
    picture = run(integrate(flow, flow.source(noise), flow.times(20))).x
    y = simulate(operators.denoise(flow.shape), picture, 0.05, noise)
    final = run(restore.flow_priors(flow, y, flow.source(noise), flow.times(20), strength=200.0, noise=noise))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..control import check
from ..entry import Count, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import dot, twice
from ..inner import adam
from ..measure import Measurement
from ..path import ends_from_velocity, linear, score
from ..rng import Noise
from ..shapes import State, Time, Times
from ..step import Step


@checked
@torch.no_grad()
def flow_priors(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    strength: NonNegative = 2000.0,
    inner: Count = 1,
    rate: Positive = 0.01,
    source: Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """Flow-Priors (ICTM): iterative corrupted-trajectory matching. Zhang, Yu, Zhu, Chang, Gao & Li 2024, arXiv:2405.18816.

    Args:
        x: the source `(b, *shape)`, at times[0] = 0; times: the grid, ending at 1.
        strength: weight of |A x' - y'|^2 / 2, in 1 / [image unit]^2; 1 / std^2 is the likelihood at t = 1.
        inner: how many iterations of Adam each step of the grid makes, each with new signs in the trace.
        rate: learning rate of Adam, in units of the state.
        source: where an interrupted run began (info["source"] of its last step), to resume it at times[0] > 0.

    Yields steps with info["misfit"], 1/2 |A x' - y'|^2 after the step, `(b,)`, and info["source"], shaped as x.

    Raises:
        ValueError: another path, a grid that does not end at 1, or one that begins after 0 without a source.
    """
    check(flow, times, "flow_priors")
    if source is None and times[0] != 0:
        raise ValueError(
            f"flow_priors: expected times from 0, got {float(times[0]):g}; give the run's `source` to resume"
        )
    total, source = len(times) - 1, (x if source is None else source).detach()
    for i, (s, t) in enumerate(pairwise(times), 1):
        misfit = partial(_misfit, flow, y, source, t)
        x = adam(partial(_cost, flow, misfit, s, t, strength, noise), x, None, iterations=inner, rate=rate)
        v = flow.velocity(x, s)
        clean, x = ends_from_velocity(linear, v, x, s).clean, x + (t - s) * v
        yield Step(i, total, t, x, clean, {"misfit": misfit(x), "source": source})


def _misfit(flow: Flow, y: Measurement, source: State, t: Time, x: State) -> Tensor:
    """1/2 |A x - t y - (1 - t) A source|^2, for a state x at time t."""
    return t**2 * y.misfit(flow.decode((x - (1 - t) * source) / t))


@twice()
def _cost(
    flow: Flow, misfit: Callable[[Tensor], Tensor], s: Time, t: Time, strength: float, noise: Noise, x: State
) -> Tensor:
    """What x at time s minimises, `(b,)`, up to its value: the score is a constant times x."""
    v = flow.velocity(x, s)
    signs = torch.where(noise(x) < 0, -1.0, 1.0).to(x)
    (product,) = torch.autograd.grad(v, x, signs, create_graph=True)
    slope = score(linear, ends_from_velocity(linear, v, x, s), s).detach()
    return strength * misfit(x + (t - s) * v) + (t - s) * dot(signs, product) - dot(slope, x)
