"""Adjoint matching: fine-tuning as memoryless stochastic control. Domingo-Enrich, Drozdzal, Karrer & Chen 2025, arXiv:2409.08861.

Sampled with the noise that makes the end forget its start (dW times nu, nu^2 = 2 kappa), the best control is nu grad V with
V = log E exp(beta reward), and v_base + kappa grad V is the velocity of the tilt p exp(beta reward). The lean adjoint is -grad V on
average:

    x_{k+1} <- draw of the noising process's own step (`ancestral`) with the clean estimate of v
    a_N     <- -beta grad reward(decode(x_N)),   a_k <- (d mean_base(x_k) / dx)^T a_{k+1}
    match    sum_k 2 h_k eps |(1/kappa + 1/eps) / 2 (v - v_base) + a_k|^2,     memoryless: eps = kappa

Needs   a differentiable reward
Cost    N steps, M = share N used: 2 N + 2 M evaluations, N vector-Jacobian products of the base, M backwards in the weights, 1 slope of the
        reward. Memory: N states, one evaluation.
Paper   Alg. 1: 40 Euler-Maruyama steps, Adam (.95, .999) 2e-5, batch 40, clip 1, beta 1000 to 12500 for ImageReward. Deviations: steps are
        the exact Gaussian transition, so that t = 0, where nu is infinite, needs no offset; what is matched there is the shift of
        the clean estimate by the adjoint of the next time. E[a_k | x_k] = -grad V_k is exact for the chain of these discrete steps.
        Losses are means over the state's numbers, over the mean of the weights 2 h eps.
Limits  Another noise (`diffusion`) is not memoryless: what the start says of the end stays as it was, and the law reached is not the
        tilt; with none at all nothing would change. For comparison only.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow = base.with_lora(4)
    adam = torch.optim.AdamW(flow.trained(), 1e-4)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.adjoint_matching(flow, base, reward, adam, noise=noise, steps=4))
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ..entry import Count, Fraction, Positive, checked
from ..flow import Flow
from ..learning import Clip, Descent, backwards, begin, chosen, limits, slopes, stopped, walk
from ..path import Path
from ..rng import Noise
from ..shapes import State, Times
from ..step import Reward, Update
from ..transition import ancestral, ancestral_moments, langevin, langevin_moments
from ..transition.diffusion import Diffusion, reversal


@checked
@torch.enable_grad()
def adjoint_matching(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise, beta: Positive = 1.0,
    diffusion: Diffusion | None = None, steps: Count = 40, share: Fraction = 0.5, quantile: Fraction = 1.0,
    clip: Clip = 1.0, updates: Count = 400, done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """Adjoint matching: fine-tuning as memoryless stochastic control. Domingo-Enrich, Drozdzal, Karrer & Chen 2025, arXiv:2409.08861.

    Args:
        optimizer: of the weights of `flow`.
        noise: a stream per picture of an update.
        beta: strength of the reward: the tilt is p exp(beta reward).
        diffusion: eps(t) > 0, half of nu^2, for Euler-Maruyama steps; None for the memoryless one.
        steps: of the sampler.
        share: of the steps that are learnt from.
        quantile: of the slopes' norms; longer ones are cut to it, and the tilt is no longer exact.
        clip: greatest norm of the gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of its pictures, "norm". What was learnt may be sampled by any solver.

    Raises:
        ValueError: a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)
    step = ancestral if diffusion is None else partial(langevin, diffusion=diffusion)
    moments = ancestral_moments if diffusion is None else partial(langevin_moments, diffusion=diffusion)
    scales = [_scale(flow.path, times, k, diffusion) for k in range(steps)]
    whole = sum(weight for _, _, weight in scales) / steps

    def moved(x: State, k: int) -> State:
        return moments(base, x, times[k], times[k + 1])[0]

    for index in range(done + 1, updates + 1):
        states, fall = walk(flow, begin(flow, noise, optimizer), times, step, noise), Descent(optimizer, clip)
        scores, slope = slopes(flow, reward, states[-1])
        adjoints = backwards(moved, states, -beta * limits(slope, quantile) * slope)
        for k in (picked := chosen(steps, share, noise)):
            x, t, (late, gain, weight) = states[k], times[k], scales[k]
            loss = (gain * (flow.velocity(x, t) - stopped(base, x, t)) + adjoints[late]).square().mean()
            fall.add(weight / whole * loss / len(picked))
        yield fall.update(index, updates, {"reward": scores})


def _scale(path: Path, times: Times, k: int, diffusion: Diffusion | None) -> tuple[int, Tensor, Tensor]:
    """Of step k: whose adjoint is matched, what v - v_base is multiplied by, and the weight 2 h eps."""
    t, h = times[k], times[k + 1] - times[k]
    if diffusion is not None:
        return k, (1 / reversal(path)(t) + 1 / diffusion(t)) / 2, 2 * h * diffusion(t)
    if path(t).alpha > 0:
        return k, 1 / reversal(path)(t), 2 * h * reversal(path)(t)
    c = path(times[k + 1])  # the shift of the clean estimate, sigma^2 / alpha grad V, taken at the next time
    kappa = path(t).d_alpha * c.sigma**2 / c.alpha
    return k + 1, 1 / kappa, 2 * h * kappa
