"""TMPD against matrices, and against the exact posterior of normal priors."""

import pytest
import torch
from laws import TIMES, first, rows

from flowhelm import GaussianFlow, Linear, Measurement, Noise
from flowhelm.path import VP, linear, trig
from flowhelm.restore import tmpd
from flowhelm.transition import renoise

T, H = TIMES[0], TIMES[1] - TIMES[0]
D, M = 5, 3


def wide(path):
    """A normal prior in D dimensions, measured M times."""
    generator = torch.Generator().manual_seed(1)
    root, matrix = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (D, M))
    y = torch.randn(2, M, generator=generator, dtype=torch.float64)
    prior = GaussianFlow(torch.linspace(-1, 1, D).double(), root @ root.T / D, path)
    return prior, matrix, Measurement(y, Linear(lambda x: x @ matrix.T, (D,)), 0.3)


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_velocity_is_the_posterior_s_for_every_normal_prior(path, t):
    prior, matrix, y = wide(path)
    x, times = torch.randn(2, D).double(), torch.tensor([t, t + 0.01], dtype=torch.float64)
    step = first(tmpd(prior, y, x, times, iterations=M))
    for i in range(2):
        posterior = prior.posterior(matrix, y.y[i], 0.09 * torch.eye(M).double())
        velocity = (step.x - x)[i : i + 1] / (times[1] - times[0])
        torch.testing.assert_close(velocity, posterior.velocity(x[i : i + 1], times[0]), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_one_step_by_hand(mixture, x, covariance):
    matrix = torch.tensor([[1.0, 0.5], [-0.4, 0.9]], dtype=torch.float64)
    target, std = torch.randn(3, 2).double(), 0.2
    y = Measurement(target, Linear(lambda x: x @ matrix.T, (2,)), std)
    clean = mixture.ends(x, T).clean
    inside = matrix @ mixture.covariance(x, T) @ matrix.T
    if covariance == "diagonal":
        inside = torch.diag_embed(inside.sum(2))
    assert (torch.diagonal(inside, dim1=1, dim2=2) > 0.01).all()  # so that no row sum is cut off here
    w = rows(matrix.T, rows(torch.linalg.inv(inside + std**2 * torch.eye(2).double()), target - rows(matrix, clean)))
    expected = x + H * (mixture.velocity(x, T) + (1 - T) / T * rows(mixture.jacobian(x, T), w))
    step = first(tmpd(mixture, y, x, TIMES, covariance=covariance))
    torch.testing.assert_close(step.x, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(step.clean, clean)
    torch.testing.assert_close(step.info["residual"], (target - rows(matrix, clean)).norm(dim=1))


def test_row_sums_are_not_below_the_noise(mixture, x):
    """y = (a, -a) of one number a: the rows of the covariance sum to 0."""
    matrix = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    y = Measurement(torch.zeros(3, 2).double(), Linear(lambda x: x @ matrix.T, (2,)), 0.2)
    residual = -rows(matrix, mixture.ends(x, T).clean)
    pull = rows(mixture.jacobian(x, T), rows(matrix.T, residual / 0.04))
    expected = x + H * (mixture.velocity(x, T) + (1 - T) / T * pull)
    torch.testing.assert_close(first(tmpd(mixture, y, x, TIMES, covariance="diagonal")).x, expected)


def test_a_non_linear_operator_is_linearised_at_the_clean_estimate(mixture, x):
    target, std = torch.randn(3, 2).double(), 0.2
    y = Measurement(target, lambda z: torch.stack([z[:, 0] * z[:, 1], z[:, 0].sin()], 1), std)
    clean, zero = mixture.ends(x, T).clean, torch.zeros(3).double()
    slope = torch.stack([clean[:, 1], clean[:, 0], clean[:, 0].cos(), zero], 1).view(3, 2, 2)
    residual = target - torch.stack([clean.prod(1), clean[:, 0].sin()], 1)
    inside = slope @ mixture.covariance(x, T) @ slope.mT + std**2 * torch.eye(2).double()
    w = rows(slope.mT, torch.linalg.solve(inside, residual))
    expected = x + H * (mixture.velocity(x, T) + (1 - T) / T * rows(mixture.jacobian(x, T), w))
    torch.testing.assert_close(first(tmpd(mixture, y, x, TIMES)).x, expected, atol=1e-9, rtol=0)


def test_iterations_are_those_of_conjugate_gradients():
    """None leaves the prior's step; one goes along the residual r by |r|^2 / r^T K r."""
    prior, matrix, y = wide(linear)
    x = torch.randn(2, D).double()
    none, one = (first(tmpd(prior, y, x, TIMES, iterations=n)).x for n in (0, 1))
    torch.testing.assert_close(none, x + H * prior.velocity(x, T), atol=1e-12, rtol=0)
    jacobian = T * prior.covariance @ torch.linalg.inv(T**2 * prior.covariance + (1 - T) ** 2 * torch.eye(D).double())
    inside = (1 - T) ** 2 / T * matrix @ jacobian @ matrix.T + 0.09 * torch.eye(M).double()
    r = y.y - rows(matrix, prior.ends(x, T).clean)
    w = r * (r.square().sum(1) / (r * rows(inside, r)).sum(1))[:, None]
    expected = none + H * (1 - T) / T * rows(jacobian @ matrix.T, w)
    torch.testing.assert_close(one, expected, atol=1e-10, rtol=0)


def test_the_first_step_from_the_source_is_the_prior_s(mixture, observed, x):
    times = mixture.times(4)
    step = first(tmpd(mixture, observed.measurement, x, times))
    torch.testing.assert_close(step.x, x + times[1] * mixture.velocity(x, times[0]))


def test_a_random_move_is_that_of_the_posterior_for_every_normal_prior():
    prior, matrix, y = wide(linear)
    x, times = torch.randn(2, D).double(), torch.tensor([0.4, 0.6], dtype=torch.float64)
    step = first(tmpd(prior, y, x, times, iterations=M, transition=renoise, noise=Noise(3, 2)))
    noise = Noise(3, 2)(x)
    for i in range(2):
        posterior = prior.posterior(matrix, y.y[i], 0.09 * torch.eye(M).double())
        expected = 0.6 * posterior.ends(x[i : i + 1], times[0]).clean + 0.4 * noise[i : i + 1]
        torch.testing.assert_close(step.x[i : i + 1], expected, atol=1e-7, rtol=1e-7)
