"""DiffPIR: its steps in matrices, and its relation to MPC-Flow."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import EYE

from flowhelm import MixtureFlow, Noise, inner
from flowhelm.path import linear, trig
from flowhelm.restore.diffpir import diffpir
from flowhelm.steer import mpc_flow

solved = partial(inner.lbfgs, iterations=200, tolerance=1e-12)


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("zeta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("solve", "atol"), [(inner.auto, 1e-9), (solved, 1e-6)])
def test_by_hand(mixture, observed, y, x, path, zeta, solve, atol):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    a, noise, state, lam = observed.matrix, Noise(5, 3), x, 0.7
    times = torch.tensor([0.0, 0.35, 0.6, 1.0], dtype=torch.float64)
    for step, (s, t) in zip(
        diffpir(flow, y, x, times, lam=lam, zeta=zeta, inner=solve, noise=Noise(5, 3)), pairwise(times), strict=True
    ):
        clean, (alpha, sigma, *_), later = flow.ends(state, s).clean, path(s), path(t)
        rho = lam * y.std**2 / min(float(sigma / alpha), 100.0) ** 2
        better = (observed.y @ a + rho * clean) @ torch.linalg.inv(a.T @ a + rho * EYE)
        source = (state - alpha * better) / sigma
        fresh = noise(state) if t < 1 and zeta else 0
        state = later.alpha * better + later.sigma * ((1 - zeta) ** 0.5 * source + zeta**0.5 * fresh)
        torch.testing.assert_close(step.clean, better, atol=atol, rtol=0)
        torch.testing.assert_close(step.x, state, atol=atol, rtol=0)
        torch.testing.assert_close(step.info["misfit"], (clean @ a.T - observed.y).square().sum(1) / 2)


def test_it_is_mpc_flow_with_an_energy_of_its_own(mixture, y, x):
    """w |u|^2 with w = lam t^2 h^2 / (2 (1-t)^2), and renoise = zeta."""
    times = torch.tensor([0.3, 0.42, 0.8, 1.0], dtype=torch.float64)
    energy = lambda t, h: 0.7 * t**2 * h**2 / (2 * (1 - t) ** 2)  # noqa: E731
    other = mpc_flow(mixture, y, x, times, strength=1 / y.std**2, energy=energy, renoise=0.4, noise=Noise(5, 3))
    for step, expected in zip(diffpir(mixture, y, x, times, lam=0.7, zeta=0.4, noise=Noise(5, 3)), other, strict=True):
        torch.testing.assert_close(step.x, expected.x, atol=1e-10, rtol=0)


def test_fresh_noise_needs_a_noise(mixture, y, x):
    with pytest.raises(ValueError, match="expected a Noise"):
        next(diffpir(mixture, y, x, mixture.times(3)))
    next(diffpir(mixture, y, x, mixture.times(3), zeta=0.0))
