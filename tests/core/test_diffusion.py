"""SDEs of any coefficient, from a flow's velocity alone."""

from itertools import pairwise

import pytest
import torch

from flowhelm import GaussianFlow, Noise
from flowhelm.path import linear, trig
from flowhelm.transition import euler, langevin, langevin_moments
from flowhelm.transition.diffusion import constant, cosine, falling, hill, reversal, sigma, within

CHOICES = {
    "constant": lambda path: constant(0.8),
    "reversal": lambda path: within(reversal(path), 0.05),
    "sigma": lambda path: sigma(path, 1.5),
    "falling": lambda path: falling(1.5),
    "cosine": lambda path: cosine(1.5),
    "hill": lambda path: hill(1.5),
}
T = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("path", [linear, trig], ids=["linear", "trig"])
@pytest.mark.parametrize("choice", CHOICES.values(), ids=list(CHOICES))
def test_every_coefficient_keeps_the_marginals(gaussian, path, choice):
    """From t = 0 to 0.9: affine moves of a Gaussian, followed without sampling; what is off is of first order."""
    flow, errors, eye = GaussianFlow(gaussian.mean, gaussian.covariance, path), [], torch.eye(2).double()
    for steps in (200, 400):
        times = torch.linspace(0, 0.9, steps + 1, dtype=torch.float64)
        mean, covariance = torch.zeros(2).double(), eye
        for s, t in pairwise(times):
            rows, std = langevin_moments(flow, torch.cat([eye, torch.zeros(1, 2)]), s, t, diffusion=choice(path))
            matrix = (rows[:2] - rows[2]).T
            mean, covariance = matrix @ mean + rows[2], matrix @ covariance @ matrix.T + std**2 * eye
        c = path(times[-1])
        true = c.alpha * flow.mean, c.alpha**2 * flow.covariance + c.sigma**2 * eye
        errors.append(float(max((mean - true[0]).abs().max(), (covariance - true[1]).abs().max())))
    print(f"off by {errors[0]:.4f} with 200 steps, {errors[1]:.4f} with 400")
    assert errors[1] < 0.05
    assert 0.4 < errors[1] / errors[0] < 0.62


def test_coefficients_by_their_formulas():
    pi = torch.pi
    torch.testing.assert_close(constant(0.3)(T), torch.full_like(T, 0.3))
    torch.testing.assert_close(reversal(linear, 2.0)(T), 2 * (1 - T) / T)
    torch.testing.assert_close(sigma(trig, 2.0)(T), 2 * torch.cos(pi / 2 * T))
    torch.testing.assert_close(falling(2.0)(T), 2 - 2 * T)
    torch.testing.assert_close(cosine(2.0)(T), 2 * torch.cos(pi / 2 * T) ** 4)
    torch.testing.assert_close(hill(2.0)(T), 1 - torch.cos(2 * pi * T))
    bounded = within(reversal(linear), 0.25, 0.9)
    torch.testing.assert_close(bounded(T), torch.tensor([0, 3, 1, 0]).double())
    assert bounded(torch.zeros(()).double()) == 0  # and not infinite


def test_the_reversal_is_the_default(gaussian):
    x = torch.randn(3, 2, dtype=torch.float64)
    given, default = (
        langevin(gaussian, x, T[1], T[2], Noise(0, 3), **options)
        for options in ({"diffusion": reversal(linear, 0.4)}, {"eta": 0.4})
    )
    torch.testing.assert_close(given, default, atol=0, rtol=0)


def test_a_coefficient_of_zero_is_the_ode(gaussian):
    x = torch.randn(3, 2, dtype=torch.float64)
    still = langevin(gaussian, x, T[0], T[1], None, diffusion=constant(0.0))
    torch.testing.assert_close(still, euler(gaussian, x, T[0], T[1]), atol=1e-13, rtol=0)
    with pytest.raises(ValueError, match="diffusion is finite"):
        langevin(gaussian, x, torch.zeros(()).double(), T[1], Noise(0, 3), diffusion=reversal(linear))
    with pytest.raises(ValueError, match="expected a Noise"):
        langevin(gaussian, x, T[0], T[1], None, diffusion=constant())
