"""OT-ODE against matrices, and against the exact posterior where its covariance is the true one."""

from functools import partial

import pytest
import torch
from laws import EYE, TIMES, first, rows

from flowhelm import Function, GaussianFlow, Linear, Measurement, MixtureFlow, Noise, run
from flowhelm.guide import counted
from flowhelm.path import VP, linear, trig
from flowhelm.restore import ot_ode as method
from flowhelm.transition import ancestral, euler

ot_ode = partial(method, transition=euler)  # the flow of the posterior

T, H = TIMES[0], TIMES[1] - TIMES[0]
MATRIX = torch.tensor([[1.0, 0.5], [-0.4, 0.9]], dtype=torch.float64)
Y = torch.tensor([[0.8, -0.1], [0.2, 0.5], [1.0, 1.0]], dtype=torch.float64)


def measured(matrix, y, std=0.2, kind=Linear):
    forward = lambda x: x @ matrix.T  # noqa: E731
    return Measurement(y, Linear(forward, (2,), tolerance=1e-14) if kind is Linear else Function(forward), std)


@pytest.mark.parametrize("gamma", ["one", "sqrt"])
def test_one_step_by_hand(mixture, x, gamma):
    clean, r2 = mixture.ends(x, T).clean, (1 - T) ** 2 / (T**2 + (1 - T) ** 2)
    inside = torch.linalg.inv(r2 * MATRIX @ MATRIX.T + 0.04 * EYE)
    residual = Y - rows(MATRIX, clean)
    pull = rows(mixture.jacobian(x, T).mT, rows(MATRIX.T @ inside, residual))
    factor = 1 if gamma == "one" else (T / (T**2 + (1 - T) ** 2)).sqrt()
    expected = x + H * (mixture.velocity(x, T) + (1 - T) / T * factor * pull)
    step = first(ot_ode(mixture, measured(MATRIX, Y), x, TIMES, gamma=gamma))
    torch.testing.assert_close(step.x, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.clean, clean)
    torch.testing.assert_close(step.info["residual"], residual.norm(dim=1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize("t", [0.12, 0.5, 0.93])
def test_the_velocity_is_the_posterior_s_for_a_prior_of_unit_covariance(x, path, t):
    prior = GaussianFlow(torch.tensor([1.0, -0.5]).double(), EYE, path)
    times = torch.tensor([t, t + 0.01], dtype=torch.float64)
    for i in range(3):
        posterior = prior.posterior(MATRIX, Y[i], 0.04 * EYE)
        step = first(ot_ode(prior, measured(MATRIX, Y[i : i + 1]), x[i : i + 1], times, gamma="one"))
        velocity = (step.x - x[i : i + 1]) / (times[1] - times[0])
        torch.testing.assert_close(velocity, posterior.velocity(x[i : i + 1], times[0]), atol=1e-8, rtol=1e-8)


def test_before_the_start_the_state_goes_straight_to_the_adjoint_and_no_network_is_asked(mixture, x):
    flow, times = counted(mixture), torch.tensor([0, 0.2, 0.5, 0.7, 1.0], dtype=torch.float64)
    y = measured(MATRIX, Y)
    steps = list(ot_ode(flow, y, x, times, start=0.4))
    aim = rows(MATRIX.T, Y)
    for step, t in zip(steps[:2], times[1:], strict=False):
        torch.testing.assert_close(step.x, t * aim + (1 - t) * x, atol=1e-12, rtol=0)
        torch.testing.assert_close(step.clean, aim)
        torch.testing.assert_close(step.info["residual"], (rows(MATRIX, aim) - Y).norm(dim=1))
    assert (flow.count.calls, flow.count.backward) == (2, 2)
    for i in (1, 3):
        torch.testing.assert_close(run(ot_ode(flow, y, steps[i - 1].x, times[i:], start=0.4)).x, steps[-1].x)
    first_guided = first(ot_ode(flow, y, steps[1].x, times[2:], start=0.0))
    torch.testing.assert_close(first_guided.x, steps[2].x)


@pytest.mark.parametrize("path", [trig, VP()], ids=["trig", "vp"])
def test_the_straight_start_on_another_path(mixture, x, path):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    aim, source = rows(MATRIX.T, Y), torch.randn(3, 2).double()
    times = torch.tensor([0.1, 0.3], dtype=torch.float64)
    a, b = path(times[0]), path(times[1])
    state = a.alpha * aim + a.sigma * source
    step = first(ot_ode(flow, measured(MATRIX, Y), state, times, start=0.2))
    torch.testing.assert_close(step.x, b.alpha * aim + b.sigma * source, atol=1e-12, rtol=0)


def test_without_a_prox_the_inverse_is_that_of_an_orthogonal_operator(mixture, x):
    turn = torch.linalg.qr(MATRIX)[0]
    closed, open_ = (
        [s.x for s in ot_ode(mixture, measured(turn, Y, kind=kind), x, TIMES)] for kind in (Linear, Function)
    )
    torch.testing.assert_close(torch.stack(closed), torch.stack(open_), atol=1e-10, rtol=0)


def test_a_non_linear_operator_by_hand(mixture, x):
    y, clean = Measurement(Y[:, :1], lambda z: z.prod(1, keepdim=True), 0.2), mixture.ends(x, T).clean
    r2 = (1 - T) ** 2 / (T**2 + (1 - T) ** 2)
    slope = clean.flip(1) * (Y[:, :1] - clean.prod(1, keepdim=True)) / (0.04 + r2)
    expected = x + H * (mixture.velocity(x, T) + (1 - T) / T * rows(mixture.jacobian(x, T).mT, slope))
    torch.testing.assert_close(first(ot_ode(mixture, y, x, TIMES, gamma="one")).x, expected, atol=1e-10, rtol=0)


def test_without_a_start_the_first_step_is_the_prior_s(mixture, x):
    times = mixture.times(4)
    step = first(ot_ode(mixture, measured(MATRIX, Y), x, times, start=0.0))
    torch.testing.assert_close(step.x, x + times[1] * mixture.velocity(x, times[0]))


def test_a_random_move_is_that_of_the_posterior_for_a_prior_of_unit_covariance(x):
    prior = GaussianFlow(torch.tensor([1.0, -0.5]).double(), EYE)
    posterior = prior.posterior(MATRIX, Y[0], 0.04 * EYE)
    step = first(method(prior, measured(MATRIX, Y[:1]), x[:1], TIMES, gamma="one", noise=Noise(3, 1)))
    expected = ancestral(posterior, x[:1], TIMES[0], TIMES[1], Noise(3, 1))
    torch.testing.assert_close(step.x, expected, atol=1e-10, rtol=0)
