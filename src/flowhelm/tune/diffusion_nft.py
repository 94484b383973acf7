"""DiffusionNFT: reinforcement on the forward process. Zheng, Chen, Ye, Wang, Zhang, Jiang, Su, Ermon, Zhu & Liu 2025, arXiv:2509.16117.

Pictures of an old policy are noised and learnt from, the good ones by the policy as it is, the bad ones by its mirror image in the old one:

    x_1   <- sampled by v_old, with any solver;   r <- clip(A / 10 + 1/2, 0, 1),  A the advantage in its group
    D+    <- (1 - b) D_old(x_t) + b D(x_t),       D- <- (1 + b) D_old(x_t) - b D(x_t),    D the estimate of clean at a noised x_1
    loss     (r |D+ - x_1|^2 / w+ + (1 - r) |D- - x_1|^2 / w-) / b + anchor |v - v_base|^2,    w = stop(mean |D - x_1|)
    old   <- keep old + (1 - keep) weights,       keep = min(slow i, slowest) at update i

Needs   a reward, differentiable or not; groups of the same condition
Cost    N steps, M noised copies: N + 2 M evaluations and M backwards, and M of the base if `anchor` > 0. One call of the reward. No
        trajectory is kept. Memory: one evaluation.
Paper   10 steps of a second-order solver, groups of 24, b 1 (0.1 for text), anchor 1e-4, slow 0.001, slowest 0.5, LoRA 32 / 64, AdamW
        3e-4, an average of 0.9 for use, no guidance. Deviations: Euler steps by default; advantages in float64; w is at least 1e-5 of
        each row's own numbers. With rewards="raw" r is the reward itself, neither centred nor clipped, and "plain" leaves w out.
Limits  The optimum is D_old + (2/b) Cov(r, x_1 | x_t), a tilt to first order only: exact for a normal prior and an affine r that is not
        clipped, the tilt exp((2/b) r) then, which n updates of `old` compose to exp((2n/b) r).

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 3e-4)
    old, noise, reward = flowhelm.learning.Copy.of(adam), flowhelm.Noise(0, rows=4), flowhelm.rewards.Compressibility()
    final = next(flowhelm.tune.diffusion_nft(flow, base, reward, adam, noise=noise, old=old, group=4, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from annotated_types import Ge

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import per_row
from ..learning import Clip, Copy, Descent, Spread, begin, ended, shared, stopped, walk
from ..path import ends_from_velocity, mix
from ..rng import Noise
from ..step import Reward, Update
from ..transition import Transition, euler


@checked
@torch.enable_grad()
def diffusion_nft(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, old: Copy, group: Count = 24,
    b: Positive = 1.0, anchor: NonNegative = 1e-4, slow: NonNegative = 0.001, slowest: Fraction = 0.5,
    rewards: Literal["group", "raw"] = "group", weight: Literal["adaptive", "plain"] = "adaptive", spread: Spread = "batch",
    copies: Count = 4, transition: Transition = euler, steps: Count = 10, clip: Clip = 1.0, updates: Count = 400,
    done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """DiffusionNFT: reinforcement on the forward process. Zheng, Chen, Ye, Wang, Zhang, Jiang, Su, Ermon, Zhu & Liu 2025, arXiv:2509.16117.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        old: a copy of those weights, which follows them here.
        group: consecutive rows of one prompt or class.
        b: how far policy and mirror image are apart; the tilt of one update is 2 / b.
        anchor: weight of the distance from the base.
        slow: how fast the old policy becomes slower, per update; 0 for one that is always the last.
        slowest: share of the old policy that is kept, at most.
        rewards: what a picture is worth: by its advantage, or the reward itself.
        weight: of the two losses: one over their size, or none.
        spread: whose deviation rewards are divided by.
        copies: noised copies of each picture, one step of the optimiser for all.
        transition: of the sampler.
        steps: of the sampler.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)`, "flat" (share of groups without difference), "norm".

    Raises:
        ValueError: a batch that is no multiple of the group. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)
    for index in range(done + 1, updates + 1):
        with old.used():
            clean = walk(flow, begin(flow, noise, optimizer), times, transition, noise)[-1]
        scores, fall = ended(flow, reward, clean), Descent(optimizer, clip)
        good, flat = shared(scores, group, spread) if rewards == "group" else (scores, scores.new_zeros(()))
        good = good.to(clean)
        for _ in range(copies):
            t = noise.uniform().clamp(min=1e-3).to(clean.device)
            x = mix(flow.path, noise(clean), clean, t)
            with old.used():
                v_old = stopped(flow, x, t)
            v = flow.velocity(x, t)
            losses = []
            for sign, share in ((1, good), (-1, 1 - good)):
                found = ends_from_velocity(flow.path, (1 - sign * b) * v_old + sign * b * v, x, t).clean
                size = per_row((found - clean).abs().flatten(1).mean(1), clean).detach().clamp(min=1e-5)
                away = (found - clean).square() / (size if weight == "adaptive" else 1)
                losses.append(share * away.flatten(1).mean(1))
            loss = (losses[0] + losses[1]).mean() / b
            if anchor:
                loss = loss + anchor * (v - stopped(base, x, t)).square().mean()
            fall.add(loss / copies)
        update = fall.update(index, updates, {"reward": scores, "flat": flat})
        old.follow(min(slow * index, slowest))
        yield update
