"""Adjoint matching: the lean adjoint is -grad V on average, what is learnt is the tilt, and another noise has the derived bias."""

import math

import pytest
import torch
from learners import Affine, Learner, given, halved, last, mapped, spent
from toys import double

from flowhelm import GaussianFlow, Noise, tune
from flowhelm.learning import backwards, walk
from flowhelm.transition import ancestral, ancestral_moments, diffusion, langevin

MEAN, STD, BETA, A = 0.5, 1.3, 0.8, 0.9
BASE = GaussianFlow(double([MEAN]), double([[STD**2]]))
KAPPA = diffusion.reversal(BASE.path)


def linear(x):
    return A * x[:, 0]


def shift(t):
    """kappa grad V for the affine reward: constant in x; at t = 0 the whole shift of the mean."""
    c = BASE.path(t.double())
    pull = BETA * A * c.alpha * STD**2 / (c.alpha**2 * STD**2 + c.sigma**2)
    return KAPPA(t.double()) * pull if c.alpha > 0 else torch.tensor(BETA * A * STD**2).double()


def test_the_affine_reward_gives_the_tilt():
    """N(m + beta a s^2, s^2): mean and variance within 2 %, by the ODE, after one exact regression (the adjoint is a constant)."""
    steps = 16
    flow = Learner(BASE, Affine(1, steps + 1, matrix=False))
    adam = torch.optim.Adam(flow.net.parameters(), lr=0.3, betas=(0.5, 0.9))
    halved(
        adam,
        tune.adjoint_matching(
            flow, BASE, linear, adam, noise=Noise(0, 1), beta=BETA, steps=steps, share=1.0, updates=72, clip=math.inf
        ),
        8,
    )
    times = flow.times(steps)[:-1]
    assert torch.allclose(flow.net.shift[:-1, 0], torch.stack([shift(t) for t in times]), rtol=0.02)
    z = double([[-1.0], [0.0], [1.0]])
    assert torch.allclose(mapped(flow, z, 32), MEAN + BETA * A * STD**2 + STD * z, atol=0.02 * BETA * A * STD**2 + 0.01)


def test_the_lean_adjoint_is_minus_grad_v_on_average():
    """Under the tilted law's own chain. Quadratic reward: V(x, t) = log E exp(beta r) is known for a normal law."""
    kappa, steps, rows = 0.6, 50, 4000
    tilt = 1 / (1 / STD**2 + BETA * kappa)
    flow = GaussianFlow(double([tilt * MEAN / STD**2]), double([[tilt]]))
    times = BASE.times(steps)
    x = torch.randn(rows, 1).double()
    states = walk(flow, x, times, ancestral, Noise(0, rows))
    end = BETA * kappa * states[-1]
    adjoints = backwards(lambda z, k: ancestral_moments(BASE, z, times[k], times[k + 1])[0], states, end)
    for k in (10, 25, 40):
        grad_v = (flow.velocity(states[k], times[k]) - BASE.velocity(states[k], times[k])) / KAPPA(times[k])
        off = (adjoints[k] + grad_v)[:, 0]
        for feature in (torch.ones(rows).double(), states[k][:, 0], states[k][:, 0] ** 2):
            noise = (off * feature).std() / rows**0.5
            assert abs(float((off * feature).mean())) < 4 * noise + 0.03 * float((grad_v[:, 0] * feature).abs().mean())
        assert off.std() > 0.1 * grad_v.std()  # of one path it is far from it


def test_adjoints_are_the_gradients_of_the_end():
    """Along moves that are not affine, whose Jacobians depend on the state."""
    move = lambda z, k: z + (z * (k + 1)).sin() / 3  # noqa: E731
    start = torch.randn(3, 2).double().requires_grad_()
    states = [start]
    for k in range(4):
        states.append(move(states[-1], k))
    wanted = torch.autograd.grad(states[-1].square().sum(), states)
    found = backwards(move, [each.detach() for each in states], 2 * states[-1].detach())
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_at_the_tilt_every_residual_vanishes():
    """An affine reward, whose adjoint is a constant: the loss is 0 at v_base + kappa grad V, at any number of steps, and nowhere else."""

    def loss(factor, steps, start=0.02):
        flow, still = given(BASE, lambda x, t: factor * shift(t) + 0 * x, start)
        return float(
            last(
                tune.adjoint_matching(
                    flow, BASE, linear, still, noise=Noise(0, 2), beta=BETA, share=1.0, steps=steps, updates=1
                )
            ).loss
        )

    assert loss(1.0, 7) < 1e-25
    assert loss(1.0, 40) < 1e-25
    assert loss(1.1, 40) > 1e-3
    assert loss(-1.0, 40) > 1e-1
    # at t = 0 the next time stands in, whose error falls with the square of the step, and its square with the fourth power
    assert loss(1.0, 7, 0.0) < 1e-4
    assert loss(1.0, 28, 0.0) < loss(1.0, 7, 0.0) / 100


def test_another_noise_is_biased_as_derived():
    """Constant nu: the start stays what it was, and says corr(x_0, x_1) = exp(-nu^2 pi / (4 s)) of the end. The mean moves by
    beta a s^2 (1 - exp(-nu^2 pi / (2 s))) only."""
    steps, nu = 30, 1.0
    eps = diffusion.constant(nu**2 / 2)
    flow = Learner(BASE, Affine(1, steps + 1, matrix=False))
    adam = torch.optim.Adam(flow.net.parameters(), lr=0.3, betas=(0.5, 0.9))
    halved(
        adam,
        tune.adjoint_matching(
            flow, BASE, linear, adam, noise=Noise(0, 1), beta=BETA, diffusion=eps, steps=steps, share=1.0, updates=72,
            clip=math.inf,
        ),
        8,
    )  # fmt: skip

    def sde(each):
        return walk(
            each, torch.zeros(1, 1).double(), flow.times(steps), lambda *a: langevin(*a, diffusion=eps), Noise(0, 1)
        )[-1]

    shift = float(sde(flow) - sde(BASE))  # affine moves, the same noise: the shift is no random number
    derived = BETA * A * STD**2 * (1 - math.exp(-(nu**2) * math.pi / (2 * STD)))
    assert shift == pytest.approx(derived, rel=0.05)
    assert shift < 0.75 * BETA * A * STD**2


def test_cost():
    learner = Learner(BASE, Affine(1, 9))
    found = spent(tune.adjoint_matching, learner, BASE, linear, 4, steps=8, share=0.5)
    assert found == (8 + 4, 4, 8 + 4, 8, 1)
    assert mapped(learner, torch.zeros(1, 1).double(), 4).isfinite().all()
