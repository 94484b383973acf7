"""DAPS: exact with the posterior's own covariance, its chain and its law in matrices."""

from itertools import pairwise

import pytest
import torch
from laws import EYE, TIMES, Basis, law

from flowhelm import Function, GaussianFlow, Measurement, Noise, run
from flowhelm.path import linear, trig
from flowhelm.restore import daps, flower


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("variance", [0.3, 2.0])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_samples_the_posterior_exactly_if_the_covariance_is_true(observed, variance, steps, path):
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    flow, noise = GaussianFlow(mean, variance * EYE, path), Basis()
    x = noise(torch.zeros(110, 2, dtype=torch.float64))
    drawn = law(run(daps(flow, observed.measurement, x, flow.times(steps), variance=variance, noise=noise)).x)
    posterior = flow.posterior(observed.matrix, observed.y, observed.covariance)
    torch.testing.assert_close(drawn[0], posterior.mean, atol=1e-9, rtol=0)
    torch.testing.assert_close(drawn[1], posterior.covariance, atol=1e-9, rtol=0)


def test_at_unit_variance_it_is_flower_s_sampler(mixture, y, x):
    other = flower(mixture, y, x, TIMES, gamma=1.0, noise=Noise(5, 3))
    for step, expected in zip(daps(mixture, y, x, TIMES, variance=1.0, noise=Noise(5, 3)), other, strict=True):
        torch.testing.assert_close(step.x, expected.x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variance", [0.2, None])
def test_by_hand(mixture, observed, y, x, variance):
    """Three steps of the flow, then a draw of N(mean, covariance), then fresh noise."""
    a, noise, state = observed.matrix, Noise(5, 3), x
    times = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    steps = daps(mixture, y, x, times, ode=3, variance=variance, noise=Noise(5, 3))
    for step, (s, t) in zip(steps, pairwise(times), strict=True):
        guess = state
        for k in range(3):
            guess = guess + (1 - s) / 3 * mixture.velocity(guess, s + k * (1 - s) / 3)
        r2 = 1e4 if s == 0 else (1 - s) ** 2 / s**2  # the paper's
        if variance == 0.2:
            r2 = 0.2 * (1 - s) ** 2 / (0.2 * s**2 + (1 - s) ** 2)
        right = guess / r2 + noise(guess) / r2**0.5 + observed.y @ a / y.std**2 + noise(y.y) @ a / y.std
        clean = right @ torch.linalg.inv(EYE / r2 + a.T @ a / y.std**2)
        state = t * clean + ((1 - t) * noise(clean) if t < 1 else 0)
        torch.testing.assert_close(step.clean, clean, atol=1e-7, rtol=0)
        torch.testing.assert_close(step.x, state, atol=1e-7, rtol=0)
        torch.testing.assert_close(step.info["misfit"], (guess @ a.T - observed.y).square().sum(1) / 2)


@pytest.mark.parametrize("chained", [{"exact": False}, {}])
def test_the_chain_by_hand(mixture, observed, y, x, chained):
    if not chained:  # nothing is known of a plain function: a chain, asked or not
        y = Measurement(y.y, Function(y.operator.A), y.std)
    a, s, t, noise = observed.matrix, *TIMES[:2], Noise(5, 3)
    guess = clean = mixture.ends(x, s).clean
    r2 = 0.2 * (1 - s) ** 2 / (0.2 * s**2 + (1 - s) ** 2)
    eta = 0.3 / (1 / r2 + 1 / y.std**2)
    for _ in range(4):
        drift = (observed.y - clean @ a.T) @ a / y.std**2 - (clean - guess) / r2
        clean = clean + eta * drift + (2 * eta).sqrt() * noise(clean)
    step = next(daps(mixture, y, x, TIMES, variance=0.2, langevin=4, rate=0.3, **chained, noise=Noise(5, 3)))
    torch.testing.assert_close(step.clean, clean, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.x, t * clean + (1 - t) * noise(clean), atol=1e-10, rtol=0)


def test_a_long_chain_draws_from_the_right_law(mixture, observed):
    """Mean exact; covariance H^-1 (I - eta H / 2)^-1, the stationary one of the discrete chain, near H^-1."""
    a, s, std, noise = observed.matrix, TIMES[0], observed.measurement.std, Basis()
    x = torch.ones(500, 2, dtype=torch.float64)
    chain = daps(mixture, observed.measurement, x, TIMES, variance=0.2, exact=False, langevin=240, noise=noise)
    mean, covariance = law(next(chain).clean)
    r2 = 0.2 * (1 - s) ** 2 / (0.2 * s**2 + (1 - s) ** 2)
    h = EYE / r2 + a.T @ a / std**2
    right = mixture.ends(x, s).clean[0] / r2 + observed.y @ a / std**2
    torch.testing.assert_close(mean, torch.linalg.solve(h, right), atol=1e-3, rtol=0)
    eta = 0.1 / (1 / r2 + 1 / std**2)
    torch.testing.assert_close(covariance, torch.linalg.inv(h @ (EYE - eta * h / 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance, torch.linalg.inv(h), atol=0.01, rtol=0.1)
