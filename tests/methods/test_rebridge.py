"""ReBridge-Flow: its two ends solve their joint problem, its limits, and its relation to MPC-Flow."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import EYE, TIMES

from flowhelm import MixtureFlow, Noise, inner
from flowhelm.control import flower as energy
from flowhelm.path import linear, trig
from flowhelm.restore.rebridge import rebridge
from flowhelm.steer import mpc_flow
from flowhelm.transition import euler

S, T = TIMES[:2]
H = T - S
solved = partial(inner.lbfgs, iterations=200, tolerance=1e-12)


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("kappa", [0.0, 5.0])
@pytest.mark.parametrize(("solve", "atol"), [(inner.auto, 1e-9), (solved, 1e-6)])
def test_the_ends_solve_their_joint_problem(mixture, observed, y, x, path, kappa, solve, atol):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    a, state, rho, lam = observed.matrix, x, 0.8, 1.7
    steps = rebridge(flow, y, x, TIMES, rho=rho, lam=lam, kappa=kappa, inner=solve, transition=euler)
    for step, (s, t) in zip(steps, pairwise(TIMES), strict=True):
        (alpha, sigma, d_alpha, d_sigma), ends = path(s), flow.ends(state, s)
        tie = kappa * torch.cat([sigma * EYE, alpha * EYE]) @ torch.cat([sigma * EYE, alpha * EYE], 1)
        normal = tie + torch.block_diag(lam * EYE, rho * EYE + a.T @ a / y.std**2)
        right = torch.cat([lam * ends.source, rho * ends.clean + observed.y @ a / y.std**2], 1)
        right = right + kappa * torch.cat([sigma * state, alpha * state], 1)
        source, clean = torch.linalg.solve(normal, right.T).T.chunk(2, 1)
        state = state + (t - s) * (d_sigma * source + d_alpha * clean)
        torch.testing.assert_close(step.clean, clean, atol=atol, rtol=0)
        torch.testing.assert_close(step.x, state, atol=atol, rtol=0)
        torch.testing.assert_close(step.info["misfit"], (ends.clean @ a.T - observed.y).square().sum(1) / 2)


def test_the_notes_closed_form(mixture, observed, y, x):
    """b + A^T (A A^T + g I)^-1 (y - A b), written with the noise as the paper does."""
    a, b = observed.matrix, mixture.ends(x, S).clean
    g = y.std**2 * (1 + 5 * S**2 / (1 + 5 * (1 - S) ** 2))
    gain = a.T @ torch.linalg.inv(a @ a.T + g * EYE[:1, :1])
    step = next(rebridge(mixture, y, x, TIMES, kappa=5.0, noise=Noise(5, 3)))
    torch.testing.assert_close(step.clean, b + (observed.y - b @ a.T) @ gain.T, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.x, T * step.clean + (1 - T) * Noise(5, 3)(x), atol=1e-10, rtol=0)


def test_firmly_tied_ends_are_those_of_mpc_flow_with_flower_s_energy(mixture, y, x):
    firm = rebridge(mixture, y, x, TIMES, kappa=1e10, transition=euler)
    other = mpc_flow(mixture, y, x, TIMES, strength=1 / y.std**2, energy=energy)
    for step, expected in zip(firm, other, strict=True):
        torch.testing.assert_close(step.x, expected.x, atol=1e-7, rtol=0)
