"""Flow-GRPO: policy gradients on a stochastic sampler. Liu, Liu, Liang, Li, Liu, Wang, Wan, Zhang & Ouyang 2025, arXiv:2505.05470.

The ODE becomes an SDE of the same marginals with normal steps: a policy. Pictures above the mean of their group become more probable:

    x_{k+1} ~ N(mean(x_k), std_k^2),   std_k^2 = 2 h eps,   eps = (level^2 / 2) (1 - t) / t
    A       <- (reward - mean of the group) / (deviation + 1e-4), within [-5, 5]
    ratio   <- exp(log p(x_{k+1} | x_k) - log p_old(x_{k+1} | x_k)),     log p a mean over the numbers of the state
    loss       max(-A ratio, -A clip(ratio, 1 - trust, 1 + trust)) + anchor |mean - mean_base|^2 / (2 std^2)

Needs   a reward, differentiable or not; groups of the same condition
Cost    N steps, M = share (N - 1) used, P passes: N + P M evaluations, P M backwards, M of the base with `anchor`. Memory: one evaluation.
Paper   10 steps in training, level 0.7, groups of 24, trust 1e-4, anchor 0.04 (0.01 for PickScore), LoRA 32 / 64, AdamW 3e-4. Deviations:
        the first step, where eps is infinite, takes the next time's (as the code does); the last one, whose noise would be
        seen, is of the ODE and not learnt from. The divergence from the base is the exact one of two normal laws, with the length of
        the step (the code's lacks it). Advantages are in float64. A pass is one step of the optimiser over all that was sampled.
Limits  log p is a mean over numbers: `trust` is tiny, for pictures of any size.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 3e-4)
    noise, reward = flowhelm.Noise(0, rows=4), flowhelm.rewards.Compressibility()
    final = next(flowhelm.tune.flow_grpo(flow, base, reward, adam, noise=noise, group=4, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..learning import Clip, Descent, Spread, advantages, begin, chosen, ended
from ..rng import Noise
from ..step import Reward, Update
from ..transition import euler, langevin_moments
from ..transition.diffusion import reversal


@checked
@torch.enable_grad()
def flow_grpo(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, group: Count = 24,
    level: Positive = 0.7, trust: Positive = 1e-4, anchor: NonNegative = 0.04, spread: Spread = "batch",
    passes: Count = 2, steps: Annotated[int, Ge(2)] = 10, share: Fraction = 1.0, clip: Clip = 1.0, updates: Count = 400,
    done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """Flow-GRPO: policy gradients on a stochastic sampler. Liu, Liu, Liang, Li, Liu, Wang, Wan, Zhang & Ouyang 2025, arXiv:2505.05470.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        group: consecutive rows of one prompt or class.
        level: of the sampler's noise; 1.41 is that of adjoint matching.
        trust: how far the ratio may move before it stops counting.
        anchor: weight of the divergence from the base.
        spread: whose deviation rewards are divided by.
        passes: steps of the optimiser over what was sampled.
        steps: of the sampler.
        share: of the steps that are learnt from.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each, after all passes: info "reward" `(b,)`, "flat" (share of groups without difference), "drift" (largest
    |ratio - 1| before the first pass), "clipped" (share of ratios outside the trust region in the last), "divergence" and "norm".

    Raises:
        ValueError: a batch that is no multiple of the group. Diverged: loss or reward not finite; the weights are as before the pass.
    """
    times = flow.times(steps)
    eps = reversal(flow.path, level**2 / 2)
    noisy = partial(langevin_moments, diffusion=lambda t: eps(t.clamp(min=times[1])))
    for index in range(done + 1, updates + 1):
        states, old = [begin(flow, noise, optimizer)], list[Tensor]()
        with torch.no_grad():
            for s, t in pairwise(times[:-1]):
                mean, std = noisy(flow, states[-1], s, t)
                old.append(mean)
                states.append(mean + std * noise(mean))
            scores = ended(flow, reward, euler(flow, states[-1], times[-2], times[-1]))
            (gain, flat), picked = advantages(scores, group, spread), chosen(steps - 1, share, noise)
            of_base = {k: noisy(base, states[k], times[k], times[k + 1])[0] if anchor else old[k] for k in picked}
        info: dict[str, Tensor] = {"reward": scores, "flat": flat}
        for _ in range(passes):
            fall, told = Descent(optimizer, clip), list[Tensor]()
            for k in picked:
                mean, std = noisy(flow, states[k], times[k], times[k + 1])
                ratio = _log_ratio(states[k + 1], mean, old[k], std).exp()
                policy = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - trust, 1 + trust)).mean()
                apart = ((mean - of_base[k]) / std).square().mean() / 2
                fall.add((policy + anchor * apart) / len(picked))
                off = (ratio.detach() - 1).abs()
                told.append(torch.stack([off.max(), (off > trust).to(off).mean(), apart.detach()]))
            seen = torch.stack(told)
            info = {"drift": seen[:, 0].max()} | info | {"clipped": seen[:, 1].mean(), "divergence": seen[:, 2].mean()}
            update = fall.update(index, updates, info)
        yield update


def _log_ratio(x: Tensor, mean: Tensor, old: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2) - log N(x; old, std^2) per number of the state `(b,)`; not as a difference of large numbers."""
    return ((mean - old) / std * ((x - mean) + (x - old)) / std).flatten(1).mean(1) / 2
