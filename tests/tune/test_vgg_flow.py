"""VGG-Flow: its equation, its optimum, which is a proximal map and not the tilt, and its variants."""

import math

import pytest
import torch
from learners import Affine, Learner, given, halved, last, mapped, spent
from toys import double

from flowhelm import GaussianFlow, Noise, tune
from flowhelm.learning import walk

MEAN, STD, BETA, KAPPA, WANTED = 0.7, 1.6, 1 / 0.8, 0.9, -0.4
BASE = GaussianFlow(double([MEAN]), double([[STD**2]]))


def reward(x):
    return -KAPPA / 2 * (x[:, 0] - WANTED).square()


def gradient(x, t, beta=BETA):
    """grad V of the exact control, the Moreau envelope of -reward along the base flow: what is left to do is done best by one move.

    V(x, t) = min_z |z - y|^2 / (2 beta G) - reward(z),  y the base's end from x at t,  G = int_t^1 (s / c)^2,  c^2 = t^2 s^2 + (1 - t)^2
    """
    t = t.double()
    spread = (t**2 * STD**2 + (1 - t) ** 2).sqrt()
    left = STD * (math.pi / 2 - torch.atan2(STD * t, 1 - t))
    end = MEAN + STD / spread * (x - t * MEAN)
    return STD / spread * KAPPA / (1 + beta * left * KAPPA) * (end - WANTED)


def proximal(y):
    """argmin_z (z - y)^2 / (pi s beta) - reward(z)."""
    weight = 2 / (math.pi * STD * BETA)
    return (weight * y + KAPPA * WANTED) / (weight + KAPPA)


def tuned():
    return given(BASE, lambda x, t: -BETA * gradient(x, t))


def missing(flow):
    """What a value network must know: grad V without the slope of the reward in sight."""

    def value(x, t):
        sight = x + (1 - t) * flow.velocity(x, t).detach()
        return (gradient(x, t) - t**2 * KAPPA * (sight - WANTED)).detach() + 0 * flow.weight

    return value


def test_the_exact_control_carries_the_base_by_the_proximal_map():
    z = double([[-2.0], [-0.3], [0.0], [1.7]])
    ended = mapped(tuned()[0], z, 60)
    assert torch.allclose(ended, proximal(MEAN + STD * z), atol=1e-3)
    factor = (1 / (1 + math.pi * STD * BETA / 2 * KAPPA)) ** 2
    assert factor * STD**2 == pytest.approx(0.175, abs=5e-4)
    assert pytest.approx(0.660, abs=5e-4) == 1 / (1 / STD**2 + KAPPA * BETA)  # the tilt's variance is another


def test_all_losses_vanish_at_the_exact_control():
    flow, still = tuned()  # at t = 0 the difference is one-sided, of first order only
    told = last(
        tune.vgg_flow(
            flow, BASE, reward, still, noise=Noise(0, 64), value=missing(flow), beta=BETA, quantile=1.0, delta=3e-5,
            steps=10, share=1.0, updates=1,
        )
    ).info  # fmt: skip
    assert told["match"] < 1e-20
    assert told["consistency"].sqrt() < 1e-8
    assert told["bound"].sqrt() < 1e-8


@pytest.mark.parametrize("wrong", [{"beta": BETA * 1.1}, {"power": 1.0}])
def test_they_do_not_vanish_elsewhere(wrong):
    flow, still = tuned()
    given_ = {"beta": BETA, "quantile": 1.0, "delta": 1e-4, "steps": 10, "share": 1.0, "updates": 1} | wrong
    told = last(tune.vgg_flow(flow, BASE, reward, still, noise=Noise(0, 64), value=missing(flow), **given_)).info
    assert told["match"] + told["consistency"] > 1e-3


def test_the_transposed_jacobian_is_the_one():
    """A rotation: the flow of a prior without a potential. J^T = -J; the released code's J g solves another equation."""
    turn = double([[0.0, 1.0], [-1.0, 0.0]])
    base, _ = given(GaussianFlow(double([0.0, 0.0]), torch.eye(2).double()), lambda x, t: x @ (2 * turn).T)
    to = double([1.0, 0.5])

    def exact(x, t):
        """grad V for reward to.x: the adjoint of the linear flow, which turns and spreads; g(1) = -to."""
        left = torch.linspace(float(t), 1, 401).double()
        middle = (left[1:] + left[:-1]) / 2
        grown = ((2 * middle - 1) / (middle**2 + (1 - middle) ** 2) * left.diff()).sum()
        angle = 2 * (1 - float(t))
        back = torch.linalg.matrix_exp(angle * turn).T * grown.exp()
        return (-(back @ to)).expand_as(x)

    flow, still = given(base, lambda x, t: -exact(x, t))
    value = lambda x, t: exact(x, t) + t**2 * to + 0 * flow.weight  # noqa: E731
    told = {}
    for kind in ("exact", "differences"):
        update = tune.vgg_flow(
            flow, base, lambda x: x @ to, still, noise=Noise(0, 16), value=value, quantile=1.0, steps=8, share=1.0, updates=1,
            jacobian=kind, bound=0.0,
        )  # fmt: skip
        told[kind] = last(update).info["consistency"].sqrt()
    assert told["exact"] < 1e-3
    assert told["differences"] > 1


def test_pontryagins_adjoint_is_that_of_the_best_discrete_control():
    """Of N Euler steps of an affine flow the best control is known: from x at step k the end is the proximal map of the end without any,
    (w y + kappa wanted) / (w + kappa), 1 / w = beta sum_j h (grown from j + 1 on)^2. There the loss is 0, and nowhere else."""
    steps = 5
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ones = (double([[1.0]]), double([[0.0]]))
    grown = [
        float(1 + h * (BASE.velocity(ones[0], t) - BASE.velocity(ones[1], t)))
        for t, h in zip(times[:-1], times.diff(), strict=True)
    ]

    def best(x, t):
        k = round(float(t) * steps)
        reach = sum(math.prod(grown[j + 1 :]) ** 2 / steps for j in range(k, steps))
        end, weight = walk(BASE, x, times[k:])[-1], 1 / (BETA * reach)
        return -BETA * math.prod(grown[k + 1 :]) * KAPPA * ((weight * end + KAPPA * WANTED) / (weight + KAPPA) - WANTED)

    def loss(factor, **options):
        flow, still = given(BASE, lambda x, t: factor * best(x, t), 0.0)
        more = {"beta": BETA, "quantile": 1.0, "share": 1.0, "steps": steps, "updates": 1} | options
        return last(tune.vgg_pmp(flow, BASE, reward, still, noise=Noise(0, 8), **more)).loss

    assert loss(1.0) < 1e-25
    assert loss(1.05) > 1e-4
    assert loss(1.0, beta=1.1 * BETA) > 1e-4


@pytest.mark.slow
def test_the_value_network_learns_the_proximal_map():
    flow, value = Learner(BASE, Affine(1, 11)), Affine(1, 11)
    adam = torch.optim.Adam([{"params": flow.net.parameters()}, {"params": value.parameters()}], lr=0.1)
    halved(
        adam,
        tune.vgg_flow(
            flow, BASE, reward, adam, noise=Noise(0, 16), value=value, beta=BETA, quantile=1.0, steps=10, share=1.0, updates=800,
            bound=10.0, clip=math.inf, delta=0.05,
        ),
        150,
    )  # fmt: skip
    z = torch.linspace(-2, 2, 9).double()[:, None]
    assert torch.allclose(mapped(flow, z), proximal(MEAN + STD * z), atol=0.1)


def test_cost():
    steps, used = 8, 2
    found = spent(tune.vgg_flow, Learner(BASE, Affine(1, 9)), BASE, reward, 4, value=Affine(1, 9), steps=steps)
    assert found.calls + found.base == steps + 5 * used
    assert found[1::2] == (used, used)
    assert found.rewards == 3 * used + 1
