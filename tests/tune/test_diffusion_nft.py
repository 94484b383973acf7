"""DiffusionNFT: its optimum is the first-order tilt, for a normal prior and an affine reward exactly the tilt with 2 / b."""

import math

import pytest
import torch
from learners import Affine, Learner, given, halved, last
from toys import double

from flowhelm import GaussianFlow, Noise, tune
from flowhelm.learning import Copy

MEAN, STD, A, B = 0.4, 0.8, 0.05, 0.5
BASE = GaussianFlow(double([MEAN]), double([[STD**2]]))


def affine(x):
    return 0.5 + A * x[:, 0]


def tilt(t, share=1.0):
    """v of exp((2/b) r) less v of the base: (sigma' ... ) the clean estimate moves by (2/b) a Var(x_1 | x_t)."""
    t = t.double().clamp(max=1 - 1e-9)
    variance = STD**2 * (1 - t) ** 2 / (t**2 * STD**2 + (1 - t) ** 2)
    return share * (2 / B) * A * variance / (1 - t)


def scaled(share):
    """The base, moved by so much of the exact shift; the scale is what is trained."""
    flow, _ = given(BASE, lambda x, t: (share + flow.weight) * tilt(t).to(x).reshape(-1, *[1] * (t.ndim > 0)), 0.0)
    return flow, torch.optim.SGD([flow.weight], lr=1.0)


def found(share, rows=4000, **options):
    flow, descent = scaled(share)
    old = Copy.of(descent)
    with torch.no_grad():
        old.kept[0] -= share  # the old policy is the base
    more = {
        "rewards": "raw", "weight": "plain", "b": B, "anchor": 0.0, "copies": 3, "steps": 60, "group": rows,
    } | options  # fmt: skip
    last(
        tune.diffusion_nft(
            flow, BASE, affine, descent, noise=Noise(0, rows), old=old, clip=math.inf, updates=1, slow=1e9,
            slowest=1.0, **more,
        )
    )  # fmt: skip
    return -float(flow.weight.detach())


def test_the_optimum_is_the_tilt_with_two_over_b():
    """The gradient in the scale of the exact shift is linear in it; it vanishes where the shift is that of exp((2/b) r)."""
    low, high = found(0.0), found(2.0)
    assert low < 0 < high
    assert -low / (high - low) * 2 == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_training_reaches_the_tilt():
    """From the base, the old policy held: mean m + (2/b) a s^2 within a tenth of the shift, and the base's variance."""
    knots = 9
    flow = Learner(BASE, Affine(1, knots, matrix=False))
    adam = torch.optim.Adam(flow.net.parameters(), lr=0.05)
    halved(
        adam,
        tune.diffusion_nft(
            flow, BASE, affine, adam, noise=Noise(0, 256), old=Copy.of(adam), rewards="raw", weight="plain", b=B, anchor=0.0, copies=2,
            steps=40, group=256, slow=1e9, slowest=1.0, updates=200, clip=math.inf,
        ),
        40,
    )  # fmt: skip
    times = torch.linspace(0, 1, knots).double()[:-1]
    wanted = torch.stack([tilt(t) for t in times])
    assert torch.allclose(flow.net.shift[:-1, 0], wanted, atol=0.2 * float(wanted.max()))


def test_the_old_policy_follows():
    flow = Learner(BASE, Affine(1, 3))
    adam = torch.optim.SGD(flow.net.parameters(), lr=0.1)
    old = Copy.of(adam)
    run = tune.diffusion_nft(
        flow, BASE, affine, adam, noise=Noise(0, 8), old=old, group=4, slow=0.2, slowest=0.5, steps=4, updates=4
    )
    for index, keep in enumerate((0.2, 0.4, 0.5, 0.5), 1):
        before = old.kept[0].clone()
        update = next(run)
        assert update.index == index
        assert torch.allclose(old.kept[0], keep * before + (1 - keep) * flow.net.shift.detach())


def test_a_copy_is_used_inside_only():
    net = Affine(2, 3)
    old = Copy(net.parameters())
    with torch.no_grad():
        net.shift += 1
    x, t = torch.randn(2, 2).double(), double(0.5)
    out = net(x, t)  # a graph of the weights as they are now
    with torch.no_grad(), old.used():
        assert torch.equal(net(x, t), torch.zeros_like(x))
    out.sum().backward()
    assert torch.equal(net(x, t), out)
    assert net.matrix.grad.abs().sum() > 0
