"""FlowChef: a flow steered by skipped gradients. Patel, Wen, Metaxas & Yang 2025, arXiv:2412.00100, Alg. 1.

    v <- v(x, s), held fixed
    x <- x + step * grad_clean reward(decode(clean)),   clean = x + (1 - s) v          `inner` times
    x <- x + (t - s) v, or another move between the ends that x and v imply

The clean estimate moves as the state does, as if the network's Jacobian vanished, so that the network is never
differentiated. The whole correction enters the state; MPC-Flow with one planned step applies (t - s) / (1 - s) of it.

Needs   a differentiable reward
Cost    1 evaluation per step, forward only; `inner` backwards through decoder and reward
Paper   1 gradient step or more, their length chosen per task, then the Euler step above. Here the length for a
        measurement is in units of std^2, so that 1 fits one of unit norm at once. A measurement is followed by
        `renoise` instead of the Euler step: every correction enters the state in full, the early ones into a state
        that holds almost nothing of the picture, and with `euler` they add up (rate 0.1 to 0.3, inner 1 does best then,
        and on the bundled photographs' prior no better than the blurred picture that was given).

Example

    from flowhelm import Noise, load, rewards, run, steer
    flow, noise = load("fashion"), Noise(0, rows=1)
    final = run(steer.flow_chef(flow, rewards.brightness, flow.source(noise), flow.times(8), rate=5.0))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import differentiable, value_and_grad
from ..measure import Measurement
from ..path import ends_from_velocity
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Step
from ..transition import Transition, euler, renoise


@checked
@torch.no_grad()
def flow_chef(
    flow: Flow,
    reward: Reward,
    x: State,
    times: Times,
    *,
    rate: NonNegative = 1.0,
    inner: Count = 3,
    transition: Transition | None = None,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """FlowChef: a flow steered by skipped gradients. Patel, Wen, Metaxas & Yang 2025, arXiv:2412.00100, Alg. 1.

    Args:
        x: state `(b, *shape)` at times[0].
        times: the grid.
        rate: of each gradient step: on 1/2 |A clean - y|^2 for a measurement, stable below 2 / |A|^2; on the reward for another.
        inner: gradient steps per step of the grid.
        transition: the move; None for `renoise` (which needs `noise`) where the reward is a measurement, else `euler`.

    Yields steps with info["reward"], that of the clean estimate before the gradient steps, `(b,)`.
    """
    total = len(times) - 1
    length, usual = (rate * reward.std**2, renoise) if isinstance(reward, Measurement) else (rate, euler)
    move: Transition = transition or usual
    for i, (s, t) in enumerate(pairwise(times), 1):
        v, values = flow.velocity(x, s), []
        for _ in range(inner):
            clean = ends_from_velocity(flow.path, v, x, s).clean
            value, gradient = value_and_grad(lambda z: differentiable(reward(flow.decode(z)), z), clean)
            x = x + length * gradient
            values.append(value)
        ends = ends_from_velocity(flow.path, v, x, s)
        x = move(flow, x, s, t, noise, ends)
        yield Step(i, total, t, x, ends.clean, {"reward": values[0]})
