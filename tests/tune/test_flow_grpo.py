"""Flow-GRPO: its ratio, its gradient by finite differences, its divergence, its advantages; and DiffusionNFT's optimum."""

import math
from itertools import pairwise

import pytest
import torch
from learners import Affine, Learner, last, spent, started
from toys import double

from flowhelm import GaussianFlow, Noise, tune
from flowhelm.learning import advantages
from flowhelm.transition import langevin_moments
from flowhelm.transition.diffusion import reversal

BASE = GaussianFlow(double([0.3, -0.2]), double([[1.2, 0.3], [0.3, 0.6]]))


def reward(x):
    return x[:, 0] - x[:, 1].square()


def test_the_ratio_is_one_before_the_first_update():
    flow = started(BASE)
    adam = torch.optim.SGD(flow.net.parameters(), lr=0.1)
    for update in tune.flow_grpo(flow, BASE, reward, adam, noise=Noise(0, 8), group=4, steps=5, updates=3, anchor=0.0):
        assert update.info["drift"] < 1e-6
    assert update.info["clipped"] > 0  # and moved by the first pass of each


def policy_loss(flow, states, old, gain, times, level, trust, anchor):
    """Written out from the densities, to be differentiated by differences."""
    eps = reversal(flow.path, level**2 / 2)
    total = 0.0
    for k in range(len(states) - 1):
        diffusion = lambda t: eps(t.clamp(min=times[1]))  # noqa: E731
        mean, std = langevin_moments(flow, states[k], times[k], times[k + 1], diffusion=diffusion)
        of_base, _ = langevin_moments(BASE, states[k], times[k], times[k + 1], diffusion=diffusion)
        log = torch.distributions.Normal(mean, std).log_prob(states[k + 1]).mean(1)
        ratio = (log - old[k]).exp()
        policy = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - trust, 1 + trust)).mean()
        apart = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, std), torch.distributions.Normal(of_base, std)
        ).mean()
        total = total + (policy + anchor * apart) / (len(states) - 1)
    return total


def test_the_gradient_is_that_of_the_densities():
    """By central differences of the loss written out with torch's own normal laws; in the clipped part, too."""
    rows, steps, level, trust, anchor = 6, 4, 0.7, 0.2, 0.5
    flow = started(BASE, knots=steps + 1)
    before = [p.detach().clone() for p in flow.net.parameters()]
    descent = torch.optim.SGD(flow.net.parameters(), lr=1.0)
    update = last(
        tune.flow_grpo(
            flow, BASE, reward, descent, noise=Noise(3, rows), group=3, level=level, trust=trust, anchor=anchor, passes=1, steps=steps,
            updates=1, clip=math.inf,
        )
    )  # fmt: skip
    moved = [b - p.detach() for b, p in zip(before, flow.net.parameters(), strict=True)]
    for parameter, value in zip(flow.net.parameters(), before, strict=True):
        parameter.data = value.clone()
    # the same trajectory again, by hand
    noise, times, eps = Noise(3, rows), flow.times(steps), reversal(flow.path, level**2 / 2)
    states, old = [flow.source(noise)], []
    with torch.no_grad():
        for s, t in pairwise(times[:-1]):
            mean, std = langevin_moments(flow, states[-1], s, t, diffusion=lambda u: eps(u.clamp(min=times[1])))
            states.append(mean + std * noise(mean))
            old.append(torch.distributions.Normal(mean, std).log_prob(states[-1]).mean(1))
        gain = advantages(update.info["reward"], 3)[0]
        loss = lambda: policy_loss(flow, states, old, gain, times, level, trust, anchor)  # noqa: E731
        assert float(loss()) == pytest.approx(float(update.loss), abs=1e-12)
        for parameter, slope in zip(flow.net.parameters(), moved, strict=True):
            for place in [(0, 0), (2, 1)] if parameter.ndim == 2 else [(1, 0, 1), (2, 1, 1)]:
                found = []
                for sign in (1, -1):
                    parameter[place] += sign * 1e-6
                    found.append(float(loss()))
                    parameter[place] -= sign * 1e-6
                assert (found[0] - found[1]) / 2e-6 == pytest.approx(float(slope[place]), rel=1e-4, abs=1e-9)


def test_advantages():
    value = double([1.0, 3.0, 10.0, 10.0, 0.0, 2.0])
    gain, flat = advantages(value, 2)
    assert torch.allclose(gain.view(-1, 2).sum(1), double([0.0, 0.0, 0.0]))
    assert (gain[2:4] == 0).all()
    assert float(flat) == pytest.approx(1 / 3)
    assert float(gain[1]) == pytest.approx(1 / (float(value.std(correction=0)) + 1e-4))
    own, _ = advantages(value, 2, "group")
    assert float(own[1]) == pytest.approx(1 / (1 + 1e-4))
    with pytest.raises(ValueError, match="groups of at least 2"):
        advantages(value, 4)


def test_equal_rewards_teach_nothing():
    flow = started(BASE)
    before = flow.net.shift.detach().clone()
    descent = torch.optim.SGD(flow.net.parameters(), lr=1.0)
    update = last(
        tune.flow_grpo(
            flow, BASE, lambda x: 0 * x[:, 0] + 1, descent, noise=Noise(0, 4), group=2, steps=5, updates=1, anchor=0.0
        )
    )
    assert torch.equal(before, flow.net.shift)
    assert update.info["flat"] == 1


def test_it_climbs_a_reward_without_a_gradient():
    flow = Learner(BASE, Affine(2, 6))
    adam = torch.optim.Adam(flow.net.parameters(), lr=0.05)
    scores = [
        float(u.info["reward"].mean())
        for u in tune.flow_grpo(
            flow, BASE, lambda x: (x[:, 0] > 1).double(), adam, noise=Noise(0, 48), group=48, trust=0.1, anchor=0.0,
            steps=5, updates=15,
        )
    ]  # fmt: skip
    assert sum(scores[-5:]) / 5 > scores[0] + 0.3


def test_cost():
    found = spent(tune.flow_grpo, started(BASE), BASE, reward, 4, group=4, steps=5)
    assert found[:3] + found[4:] == (5 + 2 * 4, 2 * 4, 4, 1)
    found = spent(tune.diffusion_nft, started(BASE), BASE, reward, 4, group=4, steps=5, copies=3)
    assert found[:3] + found[4:] == (5 + 2 * 3, 3, 3, 1)
