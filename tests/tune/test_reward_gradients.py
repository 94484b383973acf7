"""DRaFT and ReFL: gradients by finite differences. nabla-DB: its balance holds at the tilted policy. And what all methods refuse."""

import math

import pytest
import torch
from learners import Affine, given, last, spent, started
from toys import double

from flowhelm import Diverged, GaussianFlow, Noise, tune
from flowhelm.learning import Copy, chosen, limits, walk

BASE = GaussianFlow(double([0.3, -0.2]), double([[1.2, 0.3], [0.3, 0.6]]))


def reward(x):
    return (x[:, 0] - x[:, 1].square()).tanh()


def begun():
    return started(BASE, 1, 5, 0.3)


def moved(method, flow, **options):
    """-gradient of the loss in the weights, by a step of length one; the weights are put back."""
    before = [p.detach().clone() for p in flow.net.parameters()]
    descent = torch.optim.SGD(flow.net.parameters(), lr=1.0)
    last(method(flow, BASE, reward, descent, updates=1, clip=math.inf, **options))
    step = [p.detach() - b for b, p in zip(before, flow.net.parameters(), strict=True)]
    for parameter, value in zip(flow.net.parameters(), before, strict=True):
        parameter.data = value
    return step


def test_draft_with_all_steps_is_the_gradient_of_the_sampler():
    flow, steps = begun(), 4
    step = moved(tune.draft, flow, noise=Noise(0, 3), last=steps, steps=steps)

    @torch.no_grad()
    def value():
        x = flow.source(Noise(0, 3))
        return float(reward(walk(flow, x, flow.times(steps))[-1]).mean())

    for parameter, slope in zip(flow.net.parameters(), step, strict=True):
        for place in [(0, 0), (3, 1)] if parameter.ndim == 2 else [(0, 0, 1), (2, 1, 1)]:
            found = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * 1e-6
                    found.append(value())
                    parameter[place] -= sign * 1e-6
            assert (found[0] - found[1]) / 2e-6 == pytest.approx(float(slope[place]), rel=1e-5, abs=1e-10)


def test_draft_with_fewer_steps_leaves_the_earlier_ones_out():
    flow, steps = begun(), 4
    whole = moved(tune.draft, flow, noise=Noise(0, 3), last=steps, steps=steps)[0]
    part = moved(tune.draft, flow, noise=Noise(0, 3), last=1, steps=steps)[0]
    assert torch.allclose(part[3], whole[3])  # its own step's share is the same
    assert (part[:3] == 0).all()
    assert whole[:3].abs().min() > 0


def test_redraws_average_the_last_step():
    flow = begun()
    step = moved(tune.draft, flow, noise=Noise(0, 3), redraws=2, steps=4)[0]
    assert (step[:3] == 0).all()
    assert step[3].abs().min() > 0


def test_refl_is_the_gradient_of_the_estimate_in_sight():
    flow, steps = begun(), 4
    step = moved(tune.refl, flow, noise=Noise(2, 3), late=0.25, steps=steps)
    noise = Noise(2, 3)
    x = flow.source(noise)
    t = flow.times(steps)[3]
    x = walk(flow, x, flow.times(steps)[:4])[-1]
    value = reward(x + (1 - t) * flow.velocity(x, t)).mean()
    for got, wanted in zip(step, torch.autograd.grad(value, list(flow.net.parameters())), strict=True):
        assert torch.allclose(got, wanted)
    enough = moved(tune.refl, flow, noise=Noise(2, 3), margin=-2.0, steps=steps)  # tanh is above it everywhere
    assert all((each == 0).all() for each in enough)


def test_an_anchor_holds_the_velocity():
    flow = begun()
    for method, more in ((tune.draft, {"last": 2}), (tune.refl, {})):
        free = moved(method, flow, noise=Noise(0, 3), steps=4, **more)[1]
        held = moved(method, flow, noise=Noise(0, 3), steps=4, anchor=100.0, **more)[1]
        assert ((free - held) * flow.net.matrix.detach()).sum() > 0  # towards 0, the base


def balance(steps, factor=1.0):
    """Residuals of the policy that is `factor` of the way to the exact tilt of a quadratic reward, with the exact grad V."""
    bend, towards = double([[0.6, 0.1], [0.1, 0.3]]), double([1.0, 0.8])
    inverse = torch.linalg.inv(BASE.covariance)
    covariance = torch.linalg.inv(inverse + bend)
    tilt = GaussianFlow(covariance @ (inverse @ BASE.mean + towards), (covariance + covariance.T) / 2)
    flow, still = given(BASE, lambda x, t: factor * (tilt.velocity(x, t) - BASE.velocity(x, t)), 0.0)

    def quadratic(x):
        return x @ towards - ((x @ bend) * x).sum(1) / 2

    def value(x, t):
        with torch.no_grad():
            sight = flow.ends(x, t).clean if t < 1 else x
            slope = towards - sight @ bend
            c = flow.path(t)
            pull = (tilt.ends(x, t).clean - BASE.ends(x, t).clean) * c.alpha / c.sigma**2 if t < 1 else slope
        return pull - c.alpha**2 * slope + 0 * flow.weight

    info = last(
        tune.nabla_db(flow, BASE, quadratic, still, noise=Noise(0, 256), value=value, steps=steps, share=1.0, updates=1)
    ).info
    return float(info["forward"]), float(info["reverse"]), float(info["bound"])


def test_the_balance_holds_at_the_tilted_policy():
    """Residuals vanish as the steps do (squared and per step: as h^2 at least, of residuals times std), and only there."""
    coarse, fine = balance(20), balance(80)
    assert fine[0] < coarse[0] / 6
    assert fine[1] < coarse[1] / 6
    assert fine[2] < 1e-20
    off = balance(80, factor=0.5)
    assert off[0] > 5 * fine[0]
    assert off[1] > 2 * fine[1]


def test_nothing_is_learnt_from_a_bad_reward():
    flow = begun()
    adam = torch.optim.Adam(flow.net.parameters())
    value = Affine(2, 3)
    for method in tune.ALL:
        more = {"value": value} if method in (tune.vgg_flow, tune.nabla_db) else {}
        more |= {"group": 4} if method in (tune.flow_grpo, tune.diffusion_nft) else {}
        more |= {"old": Copy.of(adam)} if method is tune.diffusion_nft else {}
        before = flow.net.shift.detach().clone()
        bad = lambda x: torch.where(torch.arange(len(x)) == 2, math.nan, x[:, 0])  # noqa: E731
        with pytest.raises(Diverged, match="the reward is nan for row 2 of 4"):
            last(method(flow, BASE, bad, adam, noise=Noise(0, 4), steps=4, updates=1, **more))
        assert torch.equal(before, flow.net.shift), method.__name__
        if method not in (tune.flow_grpo, tune.diffusion_nft):
            with pytest.raises(ValueError, match="expected a differentiable reward"):
                last(
                    method(flow, BASE, lambda x: x[:, 0].detach(), adam, noise=Noise(0, 4), steps=4, updates=1, **more)
                )


def test_every_method_goes_on_exactly():
    """Weights, optimiser, copies and streams are all that a run is in: two updates after two are the four at once, to the bit."""
    for method in tune.ALL:
        ends = []
        for cut in (None, 2):
            flow, value, noise = begun(), Affine(2, 3), Noise(0, 4)
            adam = torch.optim.Adam([{"params": flow.net.parameters()}, {"params": value.parameters()}], lr=0.01)
            more = {"value": value} if method in (tune.vgg_flow, tune.nabla_db) else {}
            more |= {"group": 2} if method in (tune.flow_grpo, tune.diffusion_nft) else {}
            more |= {"old": Copy.of(adam), "slow": 0.1} if method is tune.diffusion_nft else {}
            if cut:
                run = method(flow, BASE, reward, adam, noise=noise, steps=4, updates=4, **more)
                next(run), next(run)
                noise = Noise(0, 4).restore(noise.state())
            last(method(flow, BASE, reward, adam, noise=noise, steps=4, updates=4, done=cut or 0, **more))
            ends.append(flow.net.matrix.detach().clone())
        assert torch.equal(*ends), method.__name__


def test_costs():
    for options, calls, backward in (({"last": 2}, 6 + 2, 2), ({"redraws": 3}, 6 + 3, 3)):
        assert spent(tune.draft, begun(), BASE, reward, 2, steps=6, **options)[:3] == (calls, backward, 0)
    found = spent(tune.nabla_db, begun(), BASE, reward, 2, value=Affine(2, 3), steps=9, share=0.25)
    assert found.calls + found.base == 9 + 4 * 2
    assert found.rewards == 2 * 2 + 1


def test_shared_parts():
    noise = Noise(0, 3)
    for _ in range(20):
        picked = chosen(10, 0.25, noise)
        assert len(picked) == 2
        assert 0 <= picked[0] < 5 <= picked[1] < 10
    slope = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.6, 0.8]])
    assert torch.allclose((limits(slope, 0.5) * slope).norm(dim=1), torch.tensor([1.0, 0.5, 1.0]))
    assert (limits(slope, 1.0) == 1).all()
