"""VGG-Flow: fine-tuning by value gradients. Liu, Xiao, Liu, Wu & Bengio 2025, arXiv:2512.05116.

The control v - v_base that reaches a high reward at least energy is -beta grad V, V the cost still to come, whose gradient g obeys an
equation along the flow (Hamilton-Jacobi-Bellman). g is the slope of the reward in sight, and a network that learns what that lacks:

    sight   <- x_t + (1 - t) stop(v(x_t, t))
    g(x, t) <- -t^power stop(grad reward(decode(sight))) + value(x, t)
    match       |v - v_base + beta stop(g)|^2
    consistency |d/ds g(x + s w, t + s) + (dv_base/dx)^T stop(g)|^2,      w = v_base - beta stop(g)
    bound       |value(x_1, 1)|^2

Needs   a differentiable reward, a prior on the linear path, a value network, for which 0 is a good start (`priors.field`)
Cost    N steps, M = share N of them used: N + 4 M evaluations and 3 M backwards of the networks (M in the weights, M of the base in the
        state, M of the value network), 3 M slopes of the reward. None goes back through time. Memory: one evaluation.
Paper   20 Euler steps, a quarter used, one per bin; bound 1e4, clip 1, AdamW 5e-4, LoRA 8; slopes above the batch's 80th percentile cut;
        power 2 (1: faster, the same trade-off); beta 5e4 (aesthetic), 3e7 (HPS), 5e5 (PickScore) with SD3.
        Deviations: losses are means over the state's numbers, not sums. The derivative along the flow is one central difference
        in [0, 1] time (the released code's of time is off by 1e3). J^T g is a vector-Jacobian product; "differences" has the
        released J g, the same only where the base's Jacobian is symmetric. The 3 slopes share one cut and one rule (v stopped).
Limits  The optimum is a transport, not the tilt p exp(beta reward): of N(m, s^2) the proximal map argmin (z - y)^2 / (pi s beta) -
        reward(z), which keeps less spread.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow, value = base.with_lora(4), flowhelm.priors.field(base)
    adam = torch.optim.AdamW([{"params": flow.trained()}, {"params": value.parameters()}], 5e-4)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.vgg_flow(flow, base, reward, adam, noise=noise, value=value, steps=4))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ..control import check
from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import vjp
from ..learning import Clip, Descent, begin, chosen, ended, limits, slopes, stopped, walk
from ..rng import Noise
from ..step import Reward, Update


@checked
@torch.enable_grad()
def vgg_flow(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise,
    value: Callable[[Tensor, Tensor], Tensor], beta: Positive = 1.0, power: NonNegative = 2.0, bound: NonNegative = 1e4,
    jacobian: Literal["exact", "differences"] = "exact", delta: Positive = 1e-3, steps: Count = 20, share: Fraction = 0.25,
    quantile: Fraction = 0.8, clip: Clip = 1.0, updates: Count = 400, done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """VGG-Flow: fine-tuning by value gradients. Liu, Xiao, Liu, Wu & Bengio 2025, arXiv:2512.05116.

    Args:
        optimizer: of the weights of `flow`, and of `value`: (state, 0-dim time) -> shaped as the state. A group of parameters for each.
        noise: a stream per picture of an update.
        beta: strength of the reward, one over the paper's lambda.
        power: how fast the reward's slope is trusted.
        bound: weight of the value network's square at the end.
        jacobian: how J^T g is computed.
        delta: of the differences, in time.
        steps: of the sampler.
        share: of the steps that are learnt from.
        quantile: of the slopes' norms; longer ones are cut to it.
        clip: greatest norm of a gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of its pictures, "match", "consistency", "bound" and "norm".

    Raises:
        ValueError: another path; a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)
    check(flow, times, "vgg_flow")
    for index in range(done + 1, updates + 1):
        states, fall, told = walk(flow, begin(flow, noise, optimizer), times), Descent(optimizer, clip), list[Tensor]()
        for k in (picked := chosen(steps, share, noise)):
            x, t = states[k], times[k]
            v = flow.velocity(x, t)
            slope = slopes(flow, reward, x + (1 - t) * v.detach())[1]
            cut = limits(slope, quantile)
            g, v_base = value(x, t).detach() - t**power * cut * slope, stopped(base, x, t)
            match = (v - v_base + beta * g).square().mean()
            w, a, b = v_base - beta * g, (t - delta).clamp(min=0), (t + delta).clamp(max=1)
            early, late = (
                value(z, s) - s**power * cut * slopes(flow, reward, z + (1 - s) * stopped(flow, z, s))[1]
                for z, s in ((x + (a - t) * w, a), (x + (b - t) * w, b))
            )
            exact = jacobian == "exact"
            back = (
                vjp(partial(base.velocity, t=t), x, g)[1]
                if exact
                else (base.velocity(x + delta * g, t) - v_base) / delta
            )
            consistency = ((late - early) / (b - a) + back.detach()).square().mean()
            fall.add((match + consistency) / len(picked))
            told.append(torch.stack([match.detach(), consistency.detach()]))
        last = value(states[-1], times[-1]).square().mean()
        fall.add(bound * last)
        scores, both = ended(flow, reward, states[-1]), torch.stack(told).mean(0)
        info = {"reward": scores, "match": both[0], "consistency": both[1], "bound": last}
        yield fall.update(index, updates, info)
