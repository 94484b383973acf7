"""DRaFT: the reward's gradient through the sampler. Clark, Vicol, Swersky & Fleet 2024, arXiv:2309.17400.

The sampler is a function of the weights; its last K steps are differentiated, or one last step of several noised pictures (LV):

    x   <- N - K steps, without gradient
    DRaFT-K    loss -reward(decode(x after K steps))
    DRaFT-LV   x_1 <- the last steps;   x <- x_1 noised back, `redraws` times;   loss -mean reward(decode(x after the last step))

Needs   a differentiable reward
Cost    N steps, `last` = K: N evaluations, K more if K > 1, K backwards in the weights, 1 slope of the reward; with n `redraws` N + n, n.
        As many of the base if `anchor` > 0. Memory: K states and one evaluation, whose activations are recomputed.
Paper   DRaFT-K with K = 1, DRaFT-LV with n = 2, LoRA; 50 DDIM steps, AdamW 4e-4 (beta2 0.99). Deviations: Euler steps of the flow in the
        place of DDIM's, the same thing on the linear path. `anchor` (not of the paper; 0 is its method) holds the velocity to the base's.
Limits  Nothing but the number of updates holds it back from what the reward likes and no picture is: stop early, or scale the adapter.
        K < N is biased: what earlier steps would change of later ones is left out.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 4e-4)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.draft(flow, base, reward, adam, noise=noise, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch.utils.checkpoint import checkpoint

from ..entry import Count, NonNegative, checked
from ..flow import Flow
from ..grad import differentiable
from ..learning import Clip, Descent, begin, judged, stopped, walk
from ..rng import Noise
from ..step import Reward, Update
from ..transition import noised


@checked
@torch.enable_grad()
def draft(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, last: Count = 1,
    redraws: Annotated[int, Ge(0)] = 0, anchor: NonNegative = 0.0, steps: Count = 20, clip: Clip = 1.0,
    updates: Count = 400, done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """DRaFT: the reward's gradient through the sampler. Clark, Vicol, Swersky & Fleet 2024, arXiv:2309.17400.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        last: steps that are differentiated; all, and more, for DRaFT.
        redraws: DRaFT-LV: noised pictures whose last step is differentiated, instead of `last`.
        anchor: weight of the distance of the velocity from the base's, per step that is differentiated.
        steps: of the sampler.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of the pictures that were differentiated, "norm".

    Raises:
        ValueError: a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)
    for index in range(done + 1, updates + 1):
        fall, count = Descent(optimizer, clip), 1 if redraws else min(last, steps)
        x = walk(flow, begin(flow, noise, optimizer), times if redraws else times[: steps - count + 1])[-1]
        for _ in range(max(redraws, 1)):
            z = noised(flow, x, times[-1], times[-2], noise) if redraws else x
            loss = z.new_zeros(())
            for s, t in pairwise(times[-count - 1 :]):
                whole = count == 1  # else activations of one evaluation at a time, for one evaluation more
                v = flow.velocity(z, s) if whole else checkpoint(flow.velocity, z, s, use_reentrant=False)
                if anchor:
                    loss = loss + anchor * (v - stopped(base, z.detach(), s)).square().mean()
                z = z + (t - s) * v
            scores = judged(differentiable(reward(flow.decode(z)), z))
            fall.add((loss - scores.mean()) / max(redraws, 1))
        yield fall.update(index, updates, {"reward": scores})
