"""VGG-PMP: value gradients by the maximum principle. Liu, Xiao, Liu, Wu & Bengio 2025, arXiv:2512.05116, variant of the tables.

VGG-Flow without a value network: along the trajectory of the best control the value's gradient is Pontryagin's adjoint, which the base's
Jacobians carry back from the reward's slope at the end:

    x_1 <- sampled by v;   a_N <- -grad reward(decode(x_1)),   a_k <- (I + h_k dv_base/dx(x_k))^T a_{k+1}
    match   |v(x_k, t_k) - v_base(x_k, t_k) + beta a_{k+1}|^2

Needs   a differentiable reward, a prior on the linear path
Cost    N steps, M = share N of them used: 2 N + 2 M evaluations, N vector-Jacobian products of the base, M backwards in the weights, 1
        slope of the reward. Memory: N states, one evaluation.
Paper   A row of the tables (SD3, 400 updates: aesthetic 7.52, diversity 11.17, against 8.24 and 22.12 of VGG-Flow). The update is
        derived here from the same Hamiltonian, for the discrete sampler, whose best control of step k has a_{k+1}. Losses are means
        over the state's numbers.
Limits  The optimum is that of `vgg_flow`, the same transport, not the tilt. The adjoint is exact on the best trajectory only.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 5e-4)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.vgg_pmp(flow, base, reward, adam, noise=noise, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from annotated_types import Ge

from ..control import check
from ..entry import Count, Fraction, Positive, checked
from ..flow import Flow
from ..learning import Clip, Descent, backwards, begin, chosen, limits, slopes, stopped, walk
from ..rng import Noise
from ..shapes import State
from ..step import Reward, Update


@checked
@torch.enable_grad()
def vgg_pmp(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, beta: Positive = 1.0,
    steps: Count = 20, share: Fraction = 0.25, quantile: Fraction = 0.8, clip: Clip = 1.0, updates: Count = 400,
    done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """VGG-PMP: value gradients by the maximum principle. Liu, Xiao, Liu, Wu & Bengio 2025, arXiv:2512.05116.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        beta: strength of the reward, one over the paper's lambda.
        steps: of the sampler.
        share: of the steps that are learnt from.
        quantile: of the slopes' norms; longer ones are cut to it.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of its pictures, "norm".

    Raises:
        ValueError: another path; a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)
    check(flow, times, "vgg_pmp")

    def moved(x: State, k: int) -> State:
        return x + (times[k + 1] - times[k]) * base.velocity(x, times[k])

    for index in range(done + 1, updates + 1):
        states, fall = walk(flow, begin(flow, noise, optimizer), times), Descent(optimizer, clip)
        scores, slope = slopes(flow, reward, states[-1])
        adjoints = backwards(moved, states, -limits(slope, quantile) * slope)
        for k in (picked := chosen(steps, share, noise)):
            x, t = states[k], times[k]
            fall.add((flow.velocity(x, t) - stopped(base, x, t) + beta * adjoints[k + 1]).square().mean() / len(picked))
        yield fall.update(index, updates, {"reward": scores})
