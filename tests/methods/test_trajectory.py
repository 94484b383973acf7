"""Methods that improve a whole trajectory, against closed forms of the discretised problem; float64, exact priors."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from laws import EYE, rows

from flowhelm import Measurement, integrate, rollout, run
from flowhelm.grad import value_and_grad
from flowhelm.grids import uniform
from flowhelm.inner import adam, lbfgs
from flowhelm.steer import d_flow, flow_grad, mpc_flow, oc_flow
from flowhelm.transition import euler, midpoint

START = torch.tensor([[0.5, -1.2]], dtype=torch.float64)
UNEVEN = torch.tensor([0.1, 0.2, 0.45, 0.7, 1.0], dtype=torch.float64)
few = partial(adam, iterations=4)
SOLVE = partial(lbfgs, iterations=60, tolerance=1e-12)


def slope(flow, x, t):
    """dv/dx per row, `(b, 2, 2)`: D = x + (1-t) v."""
    return (flow.jacobian(x, t) - EYE) / (1 - t)


def chain(flow, times):
    """Psi_k, the derivative of the end in x_{k+1}, for a Gaussian prior on its Euler grid, and that of the start."""
    psi, out = EYE, []
    for s, t in reversed(list(pairwise(times))):
        out.insert(0, psi)
        c = s**2 * flow.covariance + (1 - s) ** 2 * EYE
        psi = psi @ (EYE + (t - s) * (s * flow.covariance - (1 - s) * EYE) @ torch.linalg.inv(c))
    return out, psi


def best(flow, x, times, matrix, y, q):
    """The minimiser of sum h |u|^2 + q/2 |A x_N - y|^2 as one linear system in all controls: controls and value, per row."""
    h, (psis, _) = times.diff(), chain(flow, times)
    g = torch.cat([a * matrix @ psi for a, psi in zip(h, psis, strict=True)], 1)  # d (A x_N) / d controls
    miss = run(integrate(flow, x, times)).x @ matrix.T - y
    hessian = 2 * torch.diag(h.repeat_interleave(2)) + q * g.T @ g
    u = -q * torch.linalg.solve(hessian, g.T @ miss.T).T
    value = (h.repeat_interleave(2) * u**2).sum(1) + q / 2 * (miss + u @ g.T).square().sum(1)
    return u.view(len(x), -1, 2), value


@pytest.mark.parametrize(("options", "atol"), [({"iterations": 12}, 1e-9), ({"iterations": 1, "inner": SOLVE}, 1e-9)])
def test_oc_flow_is_the_linear_quadratic_optimum(gaussian, observed, options, atol):
    """The reference problem: N = 100, q = 25, J* = 0.0206358260 at (1.3547029914, -1.1256676663)."""
    times = uniform(100)
    u, value = best(gaussian, START, times, observed.matrix, observed.y, 25.0)
    assert value.item() == pytest.approx(0.0206358260, abs=1e-10)
    last = run(oc_flow(gaussian, observed.measurement, START, times, **options))
    print(f"OC-Flow {options}: J / J* - 1 = {last.info['objective'].item() / value.item() - 1:.1e}")
    torch.testing.assert_close(last.info["objective"], value, atol=atol, rtol=0)
    torch.testing.assert_close(last.info["plan"], u, atol=1e-5, rtol=0)
    end = torch.tensor([[1.3547029914, -1.1256676663]], dtype=torch.float64)
    torch.testing.assert_close(last.x, end, atol=1e-5, rtol=0)
    torch.testing.assert_close(last.info["energy"], 0.01 * u.square().sum((1, 2)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("strength", [2.5, 250.0])
def test_oc_flow_finds_the_optimum_of_every_row_on_an_uneven_grid(gaussian, y, x, observed, strength):
    u, value = best(gaussian, x, UNEVEN, observed.matrix, observed.y, strength)
    last = run(oc_flow(gaussian, y, x, UNEVEN, strength=strength, iterations=60))
    torch.testing.assert_close(last.info["objective"], value, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last.info["plan"], u, atol=1e-5, rtol=1e-5)


def test_oc_flow_solves_the_first_plan_of_mpc_flow(mixture, y, x):
    oc = run(oc_flow(mixture, y, x, UNEVEN, strength=3.0, iterations=1, inner=SOLVE))
    mpc = next(mpc_flow(mixture, y, x, UNEVEN, strength=3.0, horizon=None, inner=SOLVE))
    torch.testing.assert_close(oc.info["plan"], mpc.info["plan"], atol=1e-9, rtol=0)


def costates(flow, y, x, times, u, strength):
    """p_1 ... p_N of the trajectory under the controls u, `(b, N, 2)`, and its end."""
    states = [x]
    for k, (s, t) in enumerate(pairwise(times)):
        states.append(states[-1] + (t - s) * (flow.velocity(states[-1], s) + u[:, k]))
    p = [strength * y.operator.A_adjoint(y.residual(states[-1]))]
    for z, (s, t) in reversed(list(zip(states[1:-1], list(pairwise(times))[1:], strict=True))):
        p.insert(0, p[0] + (t - s) * rows(slope(flow, z, s).mT, p[0]))
    return torch.stack(p, 1), states[-1]


def test_oc_flow_by_hand(mixture, y, x):
    """u = -rate p, then (1 - 2 rate') u - rate' p at the rate of Barzilai and Borwein in the norm int |u|^2."""
    h = UNEVEN.diff()[None, :, None]
    zero = torch.zeros(3, 4, 2, dtype=torch.float64)
    one, two = oc_flow(mixture, y, x, UNEVEN, strength=3.0, rate=0.01, iterations=2)
    p, _ = costates(mixture, y, x, UNEVEN, zero, 3.0)
    u = -0.01 * p
    torch.testing.assert_close(one.info["plan"], u, atol=1e-12, rtol=0)
    new, end = costates(mixture, y, x, UNEVEN, u, 3.0)
    torch.testing.assert_close(one.x, end, atol=1e-12, rtol=0)
    change = 2 * u + new - p
    rate = ((h * u * u).sum((1, 2)) / (h * u * change).sum((1, 2)))[:, None, None]
    assert (rate > 0).all()
    assert (rate < 0.5).all()
    torch.testing.assert_close(two.info["plan"], (1 - 2 * rate) * u - rate * new, atol=1e-12, rtol=0)
    for step in (one, two):
        plan = step.info["plan"]
        energy = (h * plan**2).sum((1, 2))
        torch.testing.assert_close(step.info["energy"], energy, atol=1e-12, rtol=0)
        torch.testing.assert_close(step.info["objective"], energy + 3 * y.misfit(step.x), atol=1e-12, rtol=0)
    resumed = run(oc_flow(mixture, y, x, UNEVEN, strength=3.0, rate=0.01, iterations=1, plan=one.info["plan"]))
    torch.testing.assert_close(resumed.info["plan"], 0.98 * u - 0.01 * new, atol=1e-12, rtol=0)


def test_oc_flow_drops_what_made_a_row_worse(gaussian, y, x, observed):
    """Along its gradient the cost is a parabola of curvature 2 + q A W A^T: it falls at rates below 2 / curvature only."""
    zero, strength, a = torch.zeros(3, 4, 2, dtype=torch.float64), 400.0, observed.matrix
    gramian = sum(h * psi @ psi.T for h, psi in zip(UNEVEN.diff(), chain(gaussian, UNEVEN)[0], strict=True))
    limit = 2 / (2 + strength * float(a @ gramian @ a.T))
    p, free = costates(Both(gaussian), y, x, UNEVEN, zero, strength)
    one, two, three = oc_flow(gaussian, y, x, UNEVEN, strength=strength, rate=3.9 * limit, iterations=3)
    for step in (one, two):
        assert not step.info["plan"].any()
        torch.testing.assert_close(step.x, free, atol=1e-12, rtol=0)
    torch.testing.assert_close(three.info["plan"], -3.9 / 4 * limit * p, atol=1e-10, rtol=0)


class Both:
    """A Gaussian flow with the Jacobian of its clean estimate."""

    def __init__(self, flow):
        self.velocity, self.covariance = flow.velocity, flow.covariance

    def jacobian(self, x, t):
        return t * self.covariance @ torch.linalg.inv(t**2 * self.covariance + (1 - t) ** 2 * EYE)


def test_the_objective_never_rises(mixture, y, x):
    for strength in (1.0, 50.0, 3000.0):
        values = torch.stack([s.info["objective"] for s in oc_flow(mixture, y, x, UNEVEN, strength=strength)])
        assert (values.diff(dim=0) <= 0).all()
        assert (values[-1] < values[0]).all()
    values = torch.stack([s.info["reward"] for s in flow_grad(mixture, y, x, UNEVEN)])
    assert (values.diff(dim=0) >= 0).all()
    assert (values[-1] > values[0]).all()


def kicked(flow, x, times, kicks):
    """FlowGrad's path as a controlled one: a kick is a control of the step before it, the first one moves the start."""
    controls = torch.cat([kicks[:, 1:] / times.diff()[:-1, None], torch.zeros_like(kicks[:, :1])], 1)
    return rollout(flow, x + kicks[:, 0], times, controls)


def first_kicks(flow, y, x, times, **options):
    """The kicks of a first iteration, read off what is evaluated: states are kicked before the velocity is asked for."""
    seen = []

    class Spy:
        def __getattr__(self, name):
            return getattr(flow, name)

        def velocity(self, x, t):
            if not torch.is_grad_enabled():
                seen.append((x, flow.velocity(x, t), t))
            return flow.velocity(x, t)

    last = run(flow_grad(Spy(), y, x, times, iterations=1, **options))
    walk, kicks, state = seen[len(times) - 1 :], [], x
    for (z, v, s), t in zip(walk, times[1:], strict=True):
        kicks.append(z - state)
        state = z + (t - s) * v
    return torch.stack(kicks, 1), state, last


def test_flow_grad_climbs_the_gradient_of_the_path(mixture, y, x):
    kicks, end, last = first_kicks(mixture, y, x, UNEVEN, rate=0.1)
    value = lambda kicks: -y.misfit(kicked(mixture, x, UNEVEN, kicks))  # noqa: E731
    _, gradient = value_and_grad(value, torch.zeros_like(kicks))
    torch.testing.assert_close(kicks, 0.1 / 4 * gradient, atol=1e-12, rtol=0)
    torch.testing.assert_close(last.x, end, atol=1e-12, rtol=0)
    torch.testing.assert_close(last.x, kicked(mixture, x, UNEVEN, kicks), atol=1e-12, rtol=0)
    torch.testing.assert_close(last.info["reward"], y(end), atol=1e-10, rtol=0)
    energy = (kicks.square().sum(2) / UNEVEN.diff()).sum(1)
    torch.testing.assert_close(last.info["energy"], energy, atol=1e-12, rtol=0)


def test_flow_grad_shares_a_gradient_within_a_segment(mixture, y, x):
    """Segments by hand: velocities of the free path, then one matrix per segment over its whole length."""
    states, velocities, z = [], [], x
    for s, t in pairwise(UNEVEN):
        states.append(z)
        velocities.append(mixture.velocity(z, s))
        z = z + (t - s) * velocities[-1]
    v = torch.stack(velocities)
    jump = (v[1:] - v[:-1]).square().sum(2)
    change = torch.stack([jump[0], torch.maximum(jump[0], jump[1]), torch.maximum(jump[1], jump[2]), jump[2]])
    change = change / v.square().sum(2)
    skip = float((change[0] + change[1]).median())  # so that rows differ
    kicks, _, last = first_kicks(mixture, y, x, UNEVEN, rate=0.1, skip=skip)
    counts = set()
    for row in range(3):
        starts, spent = [0], 0.0
        for k in range(1, 4):
            spent += float(change[k - 1, row])
            if spent >= skip:
                starts.append(k)
                spent = 0.0
        counts.add(len(starts))
        a, bounds = -y.operator.A_adjoint(y.residual(z))[row], [*starts, 4]
        for start, stop in reversed(list(pairwise(bounds))):
            matrix = EYE + (UNEVEN[stop] - UNEVEN[start]) * slope(mixture, states[start], UNEVEN[start])[row]
            a = matrix.T @ a
            torch.testing.assert_close(
                kicks[row, start:stop], (0.1 / 4 * a).expand(stop - start, 2), atol=1e-12, rtol=0
            )
    assert len(counts) > 1
    torch.testing.assert_close(run(flow_grad(mixture, y, x, UNEVEN, skip=1e9)).info["products"], x.new_ones(3))


def exact(flow, x, s, t, noise, ends):
    """The flow map of a Gaussian prior as a transition."""
    return flow.map(x, s, t)


def test_d_flow_reaches_the_posterior_mean(gaussian, observed):
    """|z|^2 / 2 against the log-likelihood: the notes' reference (1.0375494071, -0.4782608696)."""
    last = run(d_flow(gaussian, observed.measurement, START, uniform(3), regulariser="normal", transition=exact))
    expected = torch.tensor([[1.0375494071, -0.4782608696]], dtype=torch.float64)
    torch.testing.assert_close(last.x, expected, atol=1e-8, rtol=0)
    posterior = gaussian.posterior(*observed[:3])
    torch.testing.assert_close(last.x[0], posterior.mean, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("move", "weight"), [(euler, 1.0), (midpoint, 1.0), (euler, 3.0)])
def test_d_flow_is_the_posterior_mean_of_its_own_sampler(gaussian, observed, move, weight):
    """A sampler of a few steps is affine, T(z) = m + L z: its prior is N(m, L L^T), and `weight` scales std^2."""
    times = uniform(4)
    probe = torch.cat([torch.zeros_like(EYE[:1]), EYE])
    ends = run(integrate(gaussian, probe, times, transition=move)).x
    m, root = ends[0], (ends[1:] - ends[0]).T
    a, prior = observed.matrix, root @ root.T
    gain = prior @ a.T @ torch.linalg.inv(a @ prior @ a.T + weight * observed.covariance)
    expected = m + gain @ (observed.y - a @ m)
    options = {"regulariser": "normal", "transition": move, "weight": weight, "iterations": 2}
    last = run(d_flow(gaussian, observed.measurement, START, times, **options))
    torch.testing.assert_close(last.x[0], expected, atol=1e-8, rtol=0)
    z = torch.linalg.solve(root, expected - m)
    torch.testing.assert_close(last.info["norm"][0], z.norm() / 2**0.5, atol=1e-7, rtol=0)
    value = weight / 2 * z @ z - observed.measurement(expected[None])[0]
    torch.testing.assert_close(last.info["objective"][0], value, atol=1e-9, rtol=0)


def test_the_chi_regulariser_holds_the_norm(gaussian, y, x):
    """Stationary: weight (1 - (d-1) / |z|^2) z = d reward / d z."""
    weight, times = 2.0, torch.tensor([0.0, 1.0], dtype=torch.float64)
    last = run(d_flow(gaussian, y, x, times, weight=weight, transition=exact, iterations=8))
    z = gaussian.map(last.x, times[1], times[0])
    square = z.square().sum(1, keepdim=True)
    root = gaussian.map(EYE, times[0], times[1]) - gaussian.map(0 * EYE, times[0], times[1])
    pull = -rows(root.T, y.operator.A_adjoint(y.residual(last.x))) / y.std**2
    torch.testing.assert_close(weight * (1 - 1 / square) * z, pull, atol=1e-5, rtol=0)
    value = weight * (square[:, 0] / 2 - square[:, 0].sqrt().log()) - y(last.x)
    torch.testing.assert_close(last.info["objective"], value, atol=1e-9, rtol=0)


def test_d_flow_begins_with_a_part_of_the_inverted_measurement(gaussian, y, x):
    times, share = uniform(3), 0.3
    back = y.operator.A_adjoint(y.y)
    for s, t in reversed(list(pairwise(times))):
        guess = back
        for _ in range(3):
            guess = back - (t - s) * gaussian.velocity(guess, s)
        back = guess
    expected = share**0.5 * back + (1 - share) ** 0.5 * x
    starts = []
    stay = lambda cost, start, closed: starts.append(start) or start  # noqa: E731
    last = run(d_flow(gaussian, y, x, times, blend=share, inner=stay, iterations=2))
    torch.testing.assert_close(starts[0], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(last.x, run(integrate(gaussian, expected, times)).x, atol=1e-12, rtol=0)


N, PASSES, M = 6, 3, 4


def test_mistakes_of_a_reward_are_told(mixture, x):
    with pytest.raises(ValueError, match="times from 0"):
        next(d_flow(mixture, lambda image: image.sum(1), x, uniform(4)[1:]))
    y = Measurement(torch.zeros(3, 2).double(), lambda image: image**2, 0.2)
    with pytest.raises(ValueError, match="linear operator for blend"):
        next(d_flow(mixture, y, x, uniform(4), blend=0.1))
