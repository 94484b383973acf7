"""Flower: its Gaussian posterior in matrices, its exactness for N(mu, I), and its relation to MPC-Flow."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import EYE, TIMES, Basis, law

from flowhelm import Function, GaussianFlow, Measurement, Noise, inner, run
from flowhelm.control import flower as energy
from flowhelm.grad import value_and_grad
from flowhelm.path import linear, trig
from flowhelm.restore.flower import flower
from flowhelm.steer import mpc_flow

solved = partial(inner.lbfgs, iterations=200, tolerance=1e-12)


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("times", [[0, 1], [0, 0.3, 1], [0, 0.1, 0.25, 0.6, 0.95, 1]])
def test_samples_the_posterior_of_a_unit_normal_prior_exactly(observed, times, path):
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    flow, noise = GaussianFlow(mean, EYE, path), Basis()
    x = noise(torch.zeros(40, 2, dtype=torch.float64))
    times = torch.tensor(times, dtype=torch.float64)
    drawn = law(run(flower(flow, observed.measurement, x, times, gamma=1.0, noise=noise)).x)
    posterior = flow.posterior(observed.matrix, observed.y, observed.covariance)
    torch.testing.assert_close(drawn[0], posterior.mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(drawn[1], posterior.covariance, atol=1e-9, rtol=0)


def test_without_perturbation_it_is_mpc_flow_with_flower_s_energy(mixture, y, x):
    other = mpc_flow(mixture, y, x, TIMES, strength=1 / y.std**2, energy=energy, renoise=1.0, noise=Noise(5, 3))
    for step, expected in zip(flower(mixture, y, x, TIMES, noise=Noise(5, 3)), other, strict=True):
        torch.testing.assert_close(step.x, expected.x, atol=1e-10, rtol=0)
        torch.testing.assert_close(step.clean, expected.clean, atol=1e-10, rtol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.6])
@pytest.mark.parametrize(("solve", "atol"), [(inner.auto, 1e-10), (solved, 1e-7)])
def test_by_hand(mixture, observed, y, x, gamma, solve, atol):
    a, noise, state = observed.matrix, Noise(5, 3), x
    steps = flower(mixture, y, x, TIMES, gamma=gamma, inner=solve, noise=Noise(5, 3))
    for step, (s, t) in zip(steps, pairwise(TIMES), strict=True):
        clean = mixture.ends(state, s).clean
        nu2 = (1 - s) ** 2 / (s**2 + (1 - s) ** 2)
        covariance = torch.linalg.inv(EYE / nu2 + a.T @ a / y.std**2)
        right = clean / nu2 + observed.y @ a / y.std**2
        if gamma:
            right = right + gamma * noise(state) / nu2.sqrt()
            right = right + gamma * noise(y.y) @ a / y.std
        better = right @ covariance
        state = t * better + ((1 - t) * noise(state) if t < 1 else 0)
        torch.testing.assert_close(step.clean, better, atol=atol, rtol=0)
        torch.testing.assert_close(step.x, state, atol=atol, rtol=0)
        torch.testing.assert_close(step.info["misfit"], (clean @ a.T - observed.y).square().sum(1) / 2)


def test_a_non_linear_operator_is_fitted_as_well(mixture, y, x):
    curved = Measurement(y.y, Function(lambda z: z[:, :1] + z[:, 1:].square() / 4), 0.2)
    s, noise = TIMES[0], Noise(5, 3)
    step = next(flower(mixture, curved, x, TIMES, gamma=0.6, inner=solved, noise=Noise(5, 3)))
    nu2 = (1 - s) ** 2 / (s**2 + (1 - s) ** 2)
    guess = mixture.ends(x, s).clean + 0.6 * nu2.sqrt() * noise(x)
    seen = Measurement(y.y + 0.6 * 0.2 * noise(y.y), curved.operator, 0.2)
    _, gradient = value_and_grad(lambda z: (z - guess).square().sum(1) / (2 * nu2) - seen(z), step.clean)
    torch.testing.assert_close(gradient, torch.zeros_like(x), atol=1e-5, rtol=0)


def test_particles_share_the_measurement_but_not_its_perturbation(mixture, observed, y, x):
    same = torch.ones_like(x[:1]).expand(3, 2)
    ends = [run(flower(mixture, m, same, TIMES, gamma=1.0, noise=Noise(5, 3))).x for m in (observed.measurement, y)]
    assert torch.equal(*ends)
    assert len(ends[0].unique(dim=0)) == 3
