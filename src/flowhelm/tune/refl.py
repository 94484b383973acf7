"""ReFL: the reward's gradient at one random late step. Xu, Liu, Wu, Tong, Li, Ding, Tang & Dong 2023, arXiv:2304.05977, Alg. 1.

    t      one of the last steps, at random
    x_t    <- sampled without gradient
    loss      weight relu(margin - reward(decode(x_t + (1 - t) v(x_t, t)))),  or -reward without a margin

Needs   a differentiable reward
Cost    n of N steps are made: n + 1 evaluations, 1 backward in the weights, 1 slope of the reward, 1 evaluation of the base with `anchor`.
        Memory: one evaluation.
Paper   40 steps, of which the last 10 may be the one, margin 2 for ImageReward, weight 1e-3, beside a loss of pre-training on real pictures
        that is left out here; the VGG-Flow paper's baseline has one of the last quarter of 20 steps. Here no margin. `anchor` (not
        of the paper; 0 is its method) holds the velocity to the base's.
Limits  As of `draft`: nothing but the number of updates holds it back.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 1e-4)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.refl(flow, base, reward, adam, noise=noise, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import differentiable
from ..learning import Clip, Descent, begin, judged, one, stopped, walk
from ..path import ends_from_velocity
from ..rng import Noise
from ..step import Reward, Update


@checked
@torch.enable_grad()
def refl(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, margin: float | None = None,
    weight: Positive = 1.0, late: Annotated[Fraction, Gt(0)] = 0.25, anchor: NonNegative = 0.0, steps: Count = 20,
    clip: Clip = 1.0, updates: Count = 400, done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """ReFL: the reward's gradient at one random late step. Xu, Liu, Wu, Tong, Li, Ding, Tang & Dong 2023, arXiv:2304.05977, Alg. 1.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        margin: a reward that is enough; None for as much as possible.
        weight: of the loss.
        late: share of the steps, at the end, of which one is taken.
        anchor: weight of the distance of the velocity from the base's.
        steps: of the sampler.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of the clean estimates that were differentiated, "norm".

    Raises:
        ValueError: a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times, few = flow.times(steps), max(1, round(late * steps))
    for index in range(done + 1, updates + 1):
        x, fall = begin(flow, noise, optimizer), Descent(optimizer, clip)
        k = steps - few + int(one(noise) * few)
        x, t = walk(flow, x, times[: k + 1])[-1], times[k]
        v = flow.velocity(x, t)
        sight = ends_from_velocity(flow.path, v, x, t).clean
        scores = judged(differentiable(reward(flow.decode(sight)), sight))
        loss = -scores.mean() if margin is None else (margin - scores).relu().mean()
        if anchor:
            loss = loss + anchor * (v - stopped(base, x, t)).square().mean()
        fall.add(weight * loss)
        yield fall.update(index, updates, {"reward": scores})
