"""Nudge: after each move, one gradient step on the reward of the clean estimate. An example, not from a paper.

    x     <- move(x, s, t)
    x     <- x + rate * grad_clean reward(decode(clean))

Needs   differentiable reward
Cost    1 evaluation per step, forward only; 1 backward through the decoder and the reward
Paper   none: this file shows the form
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from flowhelm.entry import NonNegative, checked
from flowhelm.flow import Flow
from flowhelm.grad import value_and_grad
from flowhelm.rng import Noise
from flowhelm.step import Reward, Step
from flowhelm.transition import Transition, euler


@checked
@torch.no_grad()
def nudge(
    flow: Flow,
    reward: Reward,
    x: Tensor,
    times: Tensor,
    *,
    rate: NonNegative = 0.01,
    transition: Transition = euler,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Nudge: after each move, one gradient step on the reward of the clean estimate.

    Args:
        x: state `(b, *shape)` at times[0]; times: the grid.
        rate: length of the gradient step, in state units per unit of reward gradient.
        transition: how the state moves, such as `euler` or `ancestral`; random moves need `noise`.

    Yields steps with info["reward"], that of the clean estimate before the step, `(b,)`.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        ends = flow.ends(x, s)
        value, gradient = value_and_grad(lambda clean: reward(flow.decode(clean)), ends.clean)
        x = transition(flow, x, s, t, noise, ends) + rate * gradient
        yield Step(i, total, t, x, ends.clean, {"reward": value})


if __name__ == "__main__":
    from flowhelm import GaussianFlow, run

    flow = GaussianFlow(torch.zeros(2), torch.eye(2), shape=(2,))
    noise = Noise(seed=0, rows=64)
    plain = run(nudge(flow, lambda x: x[:, 0], flow.source(noise), flow.times(20), rate=0.0))
    nudged = run(nudge(flow, lambda x: x[:, 0], flow.source(Noise(seed=0, rows=64)), flow.times(20), rate=0.05))
    assert nudged.x[:, 0].mean() > plain.x[:, 0].mean()
    print(f"mean of the first coordinate: {plain.x[:, 0].mean():.2f}, nudged {nudged.x[:, 0].mean():.2f}")
