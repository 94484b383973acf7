"""Residual nabla-DB: detailed balance of gradients. Liu, Xiao, Liu, Bengio & Zhang 2025, arXiv:2412.07775.

Normal steps N(mean, std^2) draw from the tilt p exp(beta reward) where log(p / p_base)(x' | x) = V(x', t') - V(x, t); both sides' gradients
are matched. V's is F, the slope of the reward in sight and a network that learns what that lacks:

    F(x, t) <- beta alpha(t)^power stop(grad reward(decode(clean(x, t)))) + value(x, t)
    forward    |(mean - mean_base)(x) / std^2 - F(x', t')|^2 std^2
    reverse    |grad_x log(p / p_base)(x' | x) + F(x, t)|^2 std^2
    bound      |value(x_1, 1)|^2

Needs   a differentiable reward, a network of two derivatives, a value network, for which 0 is a good start (`priors.field`)
Cost    N steps, M = share (N - 1) used: N + 4 M evaluations (3 M without `reverse`), M backwards in the weights, twice as dear, 2 M
        slopes of the reward (else M). Memory: one evaluation, twice differentiated.
Paper   50 DDPM steps of SD1.5, a tenth used, beta 1e3 to 1e4, power 2, weights 1, LoRA 8, AdamW 1e-3 for both networks, `held` 1e3 to
        2e3. Deviations: losses are means over numbers and times std^2, so that no step outweighs the others; `held` is on the
        velocity, of the weights that `old` keeps. The last step, without noise, is not used.
Limits  Normal steps of finite length cannot satisfy the balance exactly: at the tilted policy the losses vanish as the steps do.

Example

    base = flowhelm.load("fashion").told(["coat"])
    flow, value = base.with_lora(4), flowhelm.priors.field(base)
    adam = torch.optim.AdamW([{"params": flow.trained()}, {"params": value.parameters()}], 1e-3)
    noise, reward = flowhelm.Noise(0, rows=2), flowhelm.rewards.brightness
    final = next(flowhelm.tune.nabla_db(flow, base, reward, adam, noise=noise, value=value, steps=4))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..flow import Flow
from ..grad import twice
from ..learning import Clip, Copy, Descent, begin, chosen, ended, limits, slopes, stopped, walk
from ..path import at, ends_from_velocity
from ..rng import Noise
from ..step import Reward, Update
from ..transition import ancestral, ancestral_moments


@checked
@torch.enable_grad()
def nabla_db(
    flow: Flow, base: Flow, reward: Reward, optimizer: torch.optim.Optimizer, *, noise: Noise,
    value: Callable[[Tensor, Tensor], Tensor], old: Copy | None = None, beta: Positive = 1.0, power: NonNegative = 2.0,
    reverse: NonNegative = 1.0, bound: NonNegative = 1.0, held: NonNegative = 0.0, steps: Annotated[int, Ge(2)] = 20,
    share: Fraction = 0.25, quantile: Fraction = 1.0, clip: Clip = 1.0, updates: Count = 400,
    done: Annotated[int, Ge(0)] = 0,
) -> Iterator[Update]:  # fmt: skip
    """Residual nabla-DB: detailed balance of gradients. Liu, Xiao, Liu, Bengio & Zhang 2025, arXiv:2412.07775.

    Args:
        optimizer: of the weights of `flow`, and of `value`: (state, 0-dim time) -> shaped as the state. A group of parameters for each.
        noise: a stream per picture of an update.
        old: a copy of those weights, made after the last update; for `held`.
        beta: strength of the reward: the tilt is p exp(beta reward).
        power: of alpha, how fast the reward's slope is trusted.
        reverse: weight of the backward balance.
        bound: weight of the value network's square at the end.
        held: weight of the change of the velocity since `old`.
        steps: of the sampler.
        share: of the steps that are learnt from.
        quantile: of the slopes' norms; longer ones are cut to it, and the tilt is no longer exact.
        clip: greatest norm of a gradient.
        updates: in all.
        done: updates made before.

    Yields one Update each: info "reward" `(b,)` of its pictures, "forward", "reverse", "bound" and "norm".

    Raises:
        ValueError: a reward without gradient. Diverged: loss or reward not finite; the weights are as before the update.
    """
    times = flow.times(steps)

    def pull(x: Tensor, t: Tensor) -> Tensor:
        v = stopped(flow, x, t)
        slope = slopes(flow, reward, ends_from_velocity(flow.path, v, x, t).clean)[1]
        return beta * at(flow.path, t, x).alpha ** power * limits(slope, quantile) * slope + value(x, t)

    for index in range(done + 1, updates + 1):
        states = walk(flow, begin(flow, noise, optimizer), times, ancestral, noise)
        fall, told = Descent(optimizer, clip), list[Tensor]()
        for k in (picked := chosen(steps - 1, share, noise)):
            x, y, s, t = states[k].detach().requires_grad_(reverse > 0), states[k + 1], times[k], times[k + 1]
            with twice():
                v = flow.velocity(x, s)
                mean, std = ancestral_moments(flow, x, s, t, ends_from_velocity(flow.path, v, x, s))
                of_base, _ = ancestral_moments(base, x, s, t)
                forward = ((mean - of_base) / std - std * pull(y, t)).square().mean()
                back, change = forward.new_zeros(()), forward.new_zeros(())
                if reverse:
                    ratio = ((y - of_base).square() - (y - mean).square()).sum() / (2 * std**2)
                    (slope,) = torch.autograd.grad(ratio, x, create_graph=True)
                    back = (std * (slope + pull(x.detach(), s))).square().mean()
                if held and old is not None:
                    with old.used():
                        change = (v - stopped(flow, x, s)).square().mean()
                fall.add((forward + reverse * back + held * change) / len(picked))
            told.append(torch.stack([forward.detach(), back.detach()]))
        fall.add(bound * (last := value(states[-1], times[-1]).square().mean()))
        scores, both = ended(flow, reward, states[-1]), torch.stack(told).mean(0)
        if old is not None:
            old.follow(0.0)
        yield fall.update(index, updates, {"reward": scores, "forward": both[0], "reverse": both[1], "bound": last})
