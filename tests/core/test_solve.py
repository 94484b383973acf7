"""Solving along a grid, there and back, under controls; running steps."""

from functools import partial

import pytest
import torch

from flowhelm import Diverged, GaussianFlow, Noise, Step, run
from flowhelm.guide import counted
from flowhelm.path import VP, linear, trig
from flowhelm.solve import integrate, invert, jumps, look, rollout, valued
from flowhelm.transition import ALL, ancestral, euler, heun, midpoint


@pytest.mark.parametrize("move", ALL)
def test_integrate_chains_the_moves(mixture, x, move):
    times, noise = torch.linspace(0.1, 1, 5, dtype=torch.float64), Noise(2, 3)
    steps = list(integrate(mixture, x, times, transition=move, noise=Noise(2, 3)))
    assert [(s.index, s.total, float(s.t)) for s in steps] == [(i, 4, float(times[i])) for i in range(1, 5)]
    for i, step in enumerate(steps):
        torch.testing.assert_close(step.clean, mixture.ends(x, times[i]).clean, atol=1e-13, rtol=0)
        x = move(mixture, x, times[i], times[i + 1], noise, None)
        torch.testing.assert_close(step.x, x, atol=1e-12, rtol=0)


def test_integrate_costs_what_its_moves_cost(mixture, x):
    for move, expected in ((euler, 6), (midpoint, 12), (heun, 11), (ancestral, 6)):
        flow = counted(mixture)
        run(integrate(flow, x, torch.linspace(0, 1, 7, dtype=torch.float64), transition=move, noise=Noise(0, 3)))
        assert flow.count.calls == expected


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
@pytest.mark.parametrize(("move", "order"), [(euler, 1), (midpoint, 2), (heun, 2)])
def test_order_of_convergence(gaussian, x, path, move, order):
    flow = GaussianFlow(gaussian.mean, gaussian.covariance, path)
    errors = []
    for steps in (100, 200, 400):
        times = torch.linspace(0.1, 0.6, steps + 1, dtype=torch.float64)
        errors.append((run(integrate(flow, x, times, transition=move)).x - flow.map(x, times[0], times[-1])).norm())
    orders = torch.stack(errors)[:-1].log2() - torch.stack(errors)[1:].log2()
    if move is midpoint and path is linear:
        order = 3  # where the squared deviation of a Gaussian flow is quadratic in t, the second-order error cancels
    assert orders[-1] == pytest.approx(order, abs=0.02)


def test_heun_is_second_order_into_the_end_too(gaussian, x):
    errors = []
    for steps in (100, 200):
        times = torch.linspace(0.1, 1, steps + 1, dtype=torch.float64)
        errors.append(
            (run(integrate(gaussian, x, times, transition=heun)).x - gaussian.map(x, times[0], times[-1])).norm()
        )
    assert (errors[0] / errors[1]).log2() == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_an_uncontrolled_rollout_is_integrate(mixture, x, checkpointed):
    times = torch.linspace(0, 1, 7, dtype=torch.float64) ** 1.5
    expected = run(integrate(mixture, x, times)).x
    for first in (None, mixture.velocity(x, times[0])):
        for controls in (None, torch.zeros(3, 6, 2).double()):
            end = rollout(mixture, x, times, controls, first=first, checkpointed=checkpointed)
            torch.testing.assert_close(end, expected, atol=1e-13, rtol=0)


def objective(mixture, observed, x, times, controls, **options):
    """int |u|^2 + 3 |A x(1) - y|^2 / 2."""
    energy = sum(h * controls[:, k].square().sum() for k, h in enumerate(times.diff()))
    return energy + 3 * observed.measurement.misfit(rollout(mixture, x, times, controls, **options)).sum()


@pytest.mark.parametrize("checkpointed", [True, False])
def test_the_gradient_in_the_controls_is_the_adjoint_recursion(mixture, observed, x, checkpointed):
    times = torch.linspace(0, 1, 7, dtype=torch.float64) ** 1.2
    controls = (0.3 * torch.randn(3, 6, 2).double()).requires_grad_()
    cost = partial(objective, mixture, observed, x, times, checkpointed=checkpointed)
    (gradient,) = torch.autograd.grad(cost(controls), controls)

    u, states = controls.detach(), [x]
    for i, h in enumerate(times.diff()):
        states.append(states[-1] + h * (mixture.velocity(states[-1], times[i]) + u[:, i]))
    adjoint = 3 * observed.measurement.residual(states[-1]) @ observed.matrix
    expected = torch.empty_like(u)
    for i in reversed(range(6)):
        h = times[i + 1] - times[i]
        expected[:, i] = 2 * h * u[:, i] + h * adjoint
        jacobian = (mixture.jacobian(states[i], times[i]) - torch.eye(2)) / (1 - times[i])  # of the velocity
        adjoint = adjoint + h * (jacobian.mT @ adjoint[..., None])[..., 0]
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)

    step = 1e-5 * torch.randn_like(u)
    difference = (cost(u + step) - cost(u - step)) / 2
    torch.testing.assert_close(difference, (gradient * step).sum(), atol=3e-14, rtol=3e-8)


def test_a_rollout_is_differentiable_in_its_start(mixture, x):
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    whole = torch.autograd.functional.jacobian(lambda z: rollout(mixture, z, times).sum(0), x).transpose(0, 1)
    expected, state = torch.eye(2).double().expand(3, 2, 2), x
    for i, h in enumerate(times.diff()):
        jacobian = (mixture.jacobian(state, times[i]) - torch.eye(2)) / (1 - times[i])
        expected = expected + h * jacobian @ expected
        state = state + h * mixture.velocity(state, times[i])
    torch.testing.assert_close(whole, expected, atol=1e-12, rtol=0)


def test_checkpoints_recompute_all_evaluations_but_the_last(mixture, x):
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    for checkpointed, calls in ((True, 5 + 4), (False, 5)):
        flow = counted(mixture)
        rollout(flow, x.clone().requires_grad_(), times, checkpointed=checkpointed).sum().backward()
        assert (flow.count.calls, flow.count.backward) == (calls, 5)
    flow = counted(mixture)
    rollout(flow, x, times, first=mixture.velocity(x, times[0]))
    assert flow.count.calls == 4


@pytest.mark.parametrize("path", [linear, trig], ids=["linear", "trig"])
def test_the_way_back_and_forth(gaussian, x, path):
    flow, times = GaussianFlow(gaussian.mean, gaussian.covariance, path), torch.linspace(0, 1, 41, dtype=torch.float64)
    back = list(invert(flow, x, times, iterations=25))
    assert [float(s.t) for s in back] == times.flip(0)[1:].tolist()
    assert [s.index for s in back] == list(range(1, 41))
    torch.testing.assert_close(run(integrate(flow, back[-1].x, times)).x, x, atol=1e-8, rtol=0)
    plain = run(invert(flow, x, times, iterations=1)).x
    assert (run(integrate(flow, plain, times)).x - x).abs().max() > 1e-3


@pytest.mark.parametrize(("move", "order"), [(euler, 1), (midpoint, 2), (heun, 2)])
def test_the_way_back_of_any_rule(gaussian, x, move, order):
    """It undoes that rule's own steps, and leads to the true source with that rule's order."""
    errors = []
    for steps in (40, 80):
        times = torch.linspace(0.1, 0.6, steps + 1, dtype=torch.float64)
        back = run(invert(gaussian, x, times, iterations=20, transition=move)).x
        torch.testing.assert_close(run(integrate(gaussian, back, times, transition=move)).x, x, atol=1e-9, rtol=0)
        errors.append((back - gaussian.map(x, times[-1], times[0])).norm())
    if move is midpoint:
        order = 3  # see test_order_of_convergence
    assert float((errors[0] / errors[1]).log2()) == pytest.approx(order, abs=0.1)


def test_the_way_back_needs_a_move_without_noise(mixture, x):
    with pytest.raises(ValueError, match="expected a Noise"):
        run(invert(mixture, x, torch.linspace(0.2, 0.8, 3, dtype=torch.float64), transition=ancestral))


def test_one_iteration_is_the_reversed_euler_step(mixture, x):
    s, t = torch.tensor([0.4, 0.5], dtype=torch.float64)
    flow = counted(mixture)
    step = run(invert(flow, x, torch.stack([s, t]), iterations=1))
    torch.testing.assert_close(step.x, x - (t - s) * mixture.velocity(x, s), atol=1e-13, rtol=0)
    assert flow.count.calls == 1


def test_a_flow_map_goes_anywhere_in_one_evaluation(gaussian, mixture, x):
    """However the way is cut, the end is that of the exact map; a flow without one is refused."""
    whole = gaussian.map(x, torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    for cut in (1, 2, 7):
        done = list(jumps(gaussian, x, torch.linspace(0, 1, cut + 1, dtype=torch.float64)))
        assert [(s.index, s.total) for s in done] == [(i, cut) for i in range(1, cut + 1)]
        torch.testing.assert_close(done[-1].x, whole, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="expected a flow map"):
        next(jumps(mixture, x, torch.linspace(0, 1, 3, dtype=torch.float64)))


def test_the_value_ahead_and_its_gradient(mixture, x):
    """By the exact Jacobian of the clean estimate: 1 evaluation and its backward, in one go."""
    flow, t, a = counted(mixture), torch.tensor(0.4).double(), torch.tensor([1.0, 0.5]).double()
    ends, value, pull = valued(flow, lambda picture: (picture @ a).square(), x, t)
    clean = mixture.ends(x, t).clean
    torch.testing.assert_close(ends, mixture.ends(x, t), atol=1e-13, rtol=0)
    torch.testing.assert_close(value, (clean @ a).square(), atol=1e-12, rtol=0)
    expected = (mixture.jacobian(x, t).mT @ (2 * (clean @ a)[:, None] * a)[..., None])[..., 0]
    torch.testing.assert_close(pull, expected, atol=1e-11, rtol=0)
    assert not any(each.requires_grad for each in (*ends, value, pull))
    assert (flow.count.calls, flow.count.backward) == (1, 1)
    with pytest.raises(ValueError, match="differentiable reward"):
        valued(flow, lambda picture: picture.detach() @ a, x, t)


@pytest.mark.parametrize("path", [linear, trig, VP()], ids=["linear", "trig", "vp"])
def test_at_the_end_the_state_is_the_picture(gaussian, x, path):
    flow, one = counted(GaussianFlow(gaussian.mean, gaussian.covariance, path)), torch.ones(()).double()
    ends, value, pull = valued(flow, lambda picture: picture.sum(1).detach(), x, one)
    assert all(torch.equal(a, b) for a, b in zip(ends, look(flow, x, one), strict=True))
    assert torch.equal(ends.clean, x)
    assert torch.equal(value, x.sum(1))
    assert not pull.any()
    assert flow.count.calls == 0


def steps(*values):
    for i, value in enumerate(values, 1):
        x = torch.tensor([[value]])
        yield Step(i, len(values), torch.tensor(i / len(values), dtype=torch.float64), x, x, {})


def test_run_shows_every_step_and_returns_the_last():
    seen = []
    last = run(steps(1.0, 2.0, 3.0), each=seen.append)
    assert [s.index for s in seen] == [1, 2, 3]
    assert last is seen[-1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_carries_the_last_good_step(bad):
    seen = []
    with pytest.raises(Diverged, match="step 3 of 4") as error:
        run(steps(1.0, 2.0, bad, 4.0), each=seen.append)
    assert error.value.last is seen[-1]
    assert error.value.last.x.item() == 2.0
    with pytest.raises(Diverged) as error:
        run(steps(bad))
    assert error.value.last is None


def test_an_empty_grid_is_an_error():
    with pytest.raises(ValueError, match="no step"):
        run(steps())
