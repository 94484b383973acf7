"""Single steps against formulas written out in matrices; float64, an exact prior, y = A clean + N(0, 0.2^2)."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from flowhelm import Measurement, Noise, inner, restore, run, steer
from flowhelm.control import algorithm2, flower, flux2, integral
from flowhelm.grad import value_and_grad
from flowhelm.horizon import controllability

TIMES = torch.tensor([0.3, 0.42, 1.0], dtype=torch.float64)
T, S = TIMES[:2]
H = S - T
EYE = torch.eye(2, dtype=torch.float64)


@pytest.fixture
def y(observed):
    return Measurement(observed.y[None].expand(3, 1), observed.measurement.operator, observed.measurement.std)


def rows(matrix, x):
    """matrix x for rows x."""
    return x @ matrix.T


def first(steps):
    return next(iter(steps))


def plan(step, flow, x):
    """The control that a step has applied."""
    return (step.x - x) / H - flow.velocity(x, T)


def newton(cost, start, closed):
    """Exact for a quadratic cost, whose gradient is affine."""
    gradient = lambda u: value_and_grad(cost, u)[1]  # noqa: E731
    offset = gradient(torch.zeros_like(start))
    hessian = torch.stack([gradient(e.expand_as(start)) - offset for e in EYE], -1)
    return -torch.linalg.solve(hessian, offset)


converged = partial(inner.lbfgs, iterations=200, tolerance=1e-12)
ALMOST = partial(inner.adam, iterations=1200, rate=0.05)


@pytest.mark.parametrize("strength", [0.5, 25.0])
@pytest.mark.parametrize(("solve", "atol"), [(inner.auto, 1e-10), (converged, 1e-7), (ALMOST, 1e-5)])
def test_k1_is_a_prox_on_the_clean_estimate(mixture, observed, y, x, strength, solve, atol):
    a, clean = observed.matrix, mixture.ends(x, T).clean
    q, left = strength / 2, 1 - T
    inside = torch.linalg.inv(torch.eye(1) + q * left * a @ a.T)
    u = -q * rows(a.T @ inside, rows(a, clean) - observed.y)
    step = first(steer.mpc_flow(mixture, y, x, TIMES, strength=strength, inner=solve))
    torch.testing.assert_close(plan(step, mixture, x), u, atol=atol, rtol=0)
    torch.testing.assert_close(step.info["energy"], u.square().sum(1), atol=10 * atol, rtol=0)
    torch.testing.assert_close(step.clean, clean + left * u, atol=10 * atol, rtol=0)


@pytest.mark.parametrize("energy", [integral, algorithm2, flux2, flower])
def test_every_energy_is_minimised_by_its_prox(mixture, y, x, energy):
    """w |u|^2 + q |A (clean + (1-t) u) - y|^2 / 2 is stationary, and both solvers agree."""
    step = first(steer.mpc_flow(mixture, y, x, TIMES, strength=3.0, energy=energy))
    u, left = plan(step, mixture, x), 1 - T
    price = {integral: left, algorithm2: 1, flux2: T * left**2, flower: (T**2 + left**2) / 2}[energy]
    residual = y.residual(mixture.ends(x, T).clean + left * u)
    gradient = 2 * price * u + 3.0 * left * y.operator.A_adjoint(residual)
    torch.testing.assert_close(gradient, torch.zeros_like(u), atol=1e-9, rtol=0)
    other = first(steer.mpc_flow(mixture, y, x, TIMES, strength=3.0, energy=energy, inner=converged))
    torch.testing.assert_close(other.x, step.x, atol=1e-7, rtol=0)


def test_flux2_costs_nothing_at_the_source_where_its_closed_solution_is_bounded(mixture, y, x):
    assert flux2(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)) == 0
    assert run(steer.mpc_flow(mixture, y, x, mixture.times(4), energy=flux2)).x.isfinite().all()


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_unit_of_the_control_is_that_of_the_solver(mixture, y, x, horizon):
    """One step of gradient descent in the variable h u moves u by rate gradient / h^2; the minimiser is the same."""
    gradients = {}

    def descent(cost, start, closed, name):
        with torch.enable_grad():
            u = start.clone().requires_grad_()
            (gradients[name],) = torch.autograd.grad(cost(u).sum(), u)
        return start - 0.01 * gradients[name]

    def planned(unit):
        solver = partial(descent, name=unit)
        return first(steer.mpc_flow(mixture, y, x, TIMES, strength=3.0, horizon=horizon, unit=unit, inner=solver))

    h = (1 - T) / horizon
    moved = planned("displacement").x - planned("velocity").x
    plain = gradients["velocity"][:, 0]
    torch.testing.assert_close(gradients["displacement"][:, 0], plain / h, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(moved, -0.01 * (TIMES[1] - TIMES[0]) * plain * (1 / h**2 - 1), atol=1e-9, rtol=1e-9)
    same = [
        first(steer.mpc_flow(mixture, y, x, TIMES, strength=3.0, unit=unit)).x for unit in ("velocity", "displacement")
    ]
    torch.testing.assert_close(*same, atol=1e-12, rtol=0)


@pytest.mark.parametrize("amount", [0.4, 1.0])
def test_renoise_replaces_a_part_of_the_source(mixture, y, x, amount):
    plain = first(steer.mpc_flow(mixture, y, x, TIMES))
    noisy = first(steer.mpc_flow(mixture, y, x, TIMES, renoise=amount, noise=Noise(5, 3)))
    source = (x - T * plain.clean) / (1 - T)
    fresh = (1 - amount) ** 0.5 * source + amount**0.5 * Noise(5, 3)(x)
    torch.testing.assert_close(noisy.x, S * plain.clean + (1 - S) * fresh, atol=1e-9, rtol=0)


@pytest.mark.parametrize("curvature", [0.0, 1.0, 0.4])
def test_one_step_horizon_in_closed_form(gaussian, observed, y, x, curvature):
    strength = 7.0
    q, a = strength, observed.matrix
    jacobian = S * gaussian.covariance @ torch.linalg.inv(S**2 * gaussian.covariance + (1 - S) ** 2 * EYE)
    b = a @ jacobian
    ahead = x + H * gaussian.velocity(x, T)
    e = rows(a, gaussian.ends(ahead, S).clean) - observed.y
    reach = controllability(float(S), curvature) if curvature else 0
    inside = torch.linalg.inv(torch.eye(1).double() / q + reach / 2 * a @ a.T + H / 2 * b @ b.T)
    u = -0.5 * rows(b.T @ inside, e)
    step = first(steer.mpc_flow_dt(gaussian, y, x, TIMES, strength=strength, inner=newton, curvature=curvature))
    torch.testing.assert_close(plan(step, gaussian, x), u, atol=1e-10, rtol=0)
    torch.testing.assert_close(step.info["energy"], u.square().sum(1), atol=1e-9, rtol=0)


@pytest.mark.parametrize("s", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("t", [0.0, 0.4, 0.9])
def test_controllability_is_its_integral(s, t):
    nodes = t + (1 - t) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    integral = (1 - t) * (s / (nodes**2 * s + (1 - nodes) ** 2)).mean()
    assert controllability(t, s) == pytest.approx(float(integral), rel=1e-8)


def test_the_last_step_of_a_one_step_horizon_is_a_prox(mixture, y, x):
    t, h = TIMES[1], TIMES[2] - TIMES[1]
    expected = y.prox(x + h * mixture.velocity(x, t), 7.0 * y.std**2 * float(h) / 2)
    for solve, atol in ((inner.auto, 1e-10), (converged, 1e-7)):
        end = run(steer.mpc_flow_dt(mixture, y, x, TIMES[1:], strength=7.0, inner=solve)).x
        torch.testing.assert_close(end, expected, atol=atol, rtol=0)


def test_a_value_of_your_own(gaussian, y, x):
    """V = 2 |x - 1|^2: u = -2 h (x + h v - 1) / (h + 2 h^2)."""
    own = partial(steer.mpc_flow_dt, value=lambda z, t: 2 * (z - 1).square().sum(1), inner=converged)
    step = first(own(gaussian, y, x, TIMES))
    expected = -2 * H * (x + H * gaussian.velocity(x, T) - 1) / (H + 2 * H**2)
    torch.testing.assert_close(plan(step, gaussian, x), expected, atol=1e-9, rtol=0)


def test_algorithm_2_as_printed_is_the_integral_at_a_smaller_strength(gaussian, y, x):
    times, method = gaussian.times(5), partial(steer.mpc_flow_dt, gaussian, y, x, inner=newton)
    printed = run(method(times, strength=20.0, energy=algorithm2)).x
    torch.testing.assert_close(run(method(times, strength=20.0 / 5)).x, printed, atol=1e-10, rtol=0)
    assert (run(method(times, strength=20.0)).x - printed).abs().max() > 0.01


@pytest.mark.parametrize("energy", [integral, flux2, flower])
def test_a_horizon_of_two_is_stationary(mixture, y, x, energy):
    """Each planned step at the price of its own time."""
    step = first(steer.mpc_flow(mixture, y, x, TIMES, strength=5.0, horizon=2, energy=energy, inner=converged))
    half, v = (1 - T) / 2, mixture.velocity(x, T)
    prices = {
        integral: (half, half),
        flux2: (T * half**2, (T + half) * half**2),
        flower: tuple((t**2 + (1 - t) ** 2) * half**2 / (2 * (1 - t) ** 2) for t in (T, T + half)),
    }[energy]

    def cost(u):
        z = x + half * (v + u[:, 0])
        z = z + half * (mixture.velocity(z, T + half) + u[:, 1])
        return sum(w * u[:, k].square().sum() for k, w in enumerate(prices)) + 5.0 * y.misfit(z).sum()

    u0 = plan(step, mixture, x)
    z = x + half * (v + u0)  # the second control is a prox, given the first
    clean = z + half * mixture.velocity(z, T + half)
    weight = 5.0 * y.std**2 * float(half**2 / prices[1]) / 2
    u = torch.stack([u0, (y.prox(clean, weight) - clean) / half], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(u), u)
    torch.testing.assert_close(gradient, torch.zeros_like(u), atol=1e-6, rtol=0)


@pytest.mark.parametrize("horizon", [1, 3, None])
def test_a_plan_starts_from_the_last_one_shifted(mixture, y, x, horizon):
    starts, plans = [], []

    def spy(cost, start, closed):
        starts.append(start)
        plans.append(start + torch.randn_like(start) / 10)
        return plans[-1]

    run(steer.mpc_flow(mixture, y, x, mixture.times(5), horizon=horizon, inner=spy))
    assert not starts[0].any()
    for start, last in zip(starts[1:], plans, strict=False):
        kept = min(start.shape[1], last.shape[1] - 1)
        assert start.shape[1] == (horizon or last.shape[1] - 1)
        assert torch.equal(start[:, :kept], last[:, 1 : kept + 1])
        assert not start[:, kept:].any()


def test_dps_follows_the_bayesian_drift(mixture, observed, y, x):
    ends = mixture.ends(x, T)
    residual = observed.y - rows(observed.matrix, ends.clean)
    pull = (mixture.jacobian(x, T).mT @ rows(observed.matrix.T, residual)[..., None])[..., 0]
    kappa = (1 - T) / T
    drift = mixture.velocity(x, T) + 0.7 * kappa * pull / y.std**2
    step = first(restore.dps(mixture, y, x, TIMES, exact=True, step=0.7))
    torch.testing.assert_close(step.x, x + H * drift, atol=1e-10, rtol=0)
    normed = first(restore.dps(mixture, y, x, TIMES, step=0.7))
    length = residual.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(normed.x, x + H * mixture.velocity(x, T) + 0.7 * pull / length, atol=1e-10, rtol=0)
    torch.testing.assert_close(normed.info["residual"], length[:, 0], atol=1e-12, rtol=0)


def test_dps_leaves_the_first_steps_of_a_run_alone(mixture, y, x):
    times = mixture.times(5)
    guided = restore.dps(mixture, y, x, times, start=0.3)
    for step, (s, t) in zip(guided, pairwise(times), strict=True):
        euler = x + (t - s) * mixture.velocity(x, s)
        assert torch.allclose(step.x, euler, atol=1e-12) is (step.index <= 2)
        x = step.x


@pytest.mark.parametrize("draws", [1, 3])
def test_pnp_flow_by_hand(mixture, observed, y, x, draws):
    a, noise = observed.matrix, Noise(5, 3)
    z = x - (1 - T) ** 0.3 * rows(a.T, rows(a, x) - observed.y)
    clean = sum(mixture.ends(T * z + (1 - T) * noise(z), T).clean for _ in range(draws)) / draws
    step = first(restore.pnp_flow(mixture, y, x, TIMES, decay=0.3, draws=draws, noise=Noise(5, 3)))
    torch.testing.assert_close(step.x, clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(step.info["misfit"], y.misfit(x))


def test_flow_dps_by_hand(mixture, observed, y, x):
    a, ends, z = observed.matrix, mixture.ends(x, T), Noise(5, 3)(x)
    better = ends.clean
    for _ in range(4):
        better = better - 0.6 * rows(a.T, rows(a, better) - observed.y)
    clean = T * ends.clean + (1 - T) * better  # the noise level at T is 1 - T
    expected = S * clean + (1 - S) * ((1 - S).sqrt() * ends.source + S.sqrt() * z)
    step = first(restore.flow_dps(mixture, y, x, TIMES, rate=0.6, inner=4, noise=Noise(5, 3)))
    torch.testing.assert_close(step.x, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(step.clean, clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(step.info["misfit"], y.misfit(ends.clean))
