"""Closed forms of one control, and that a planned step is MPC-Flow's, whoever asks for it."""

from functools import partial

import pytest
import torch

from flowhelm import Function, Linear, Measurement, inner
from flowhelm.control import ENERGIES, flux2, planned
from flowhelm.grad import dot, value_and_grad
from flowhelm.prox import leeway, refined, solved
from flowhelm.steer import mpc_flow

A = torch.tensor([[1.0, 0.5]]).double()
S, STD = torch.tensor(0.3).double(), 0.4
exactly = partial(inner.lbfgs, iterations=200, tolerance=1e-13)


def measured(kind):
    operator = {
        "linear": Linear(lambda x: x @ A.T, (2,), tolerance=1e-14),
        "curved": Function(lambda x: 3 * (x @ A.T).tanh()),
    }[kind]
    return Measurement(torch.tensor([[0.8], [1.5], [-2.0]]).double(), operator, STD)


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_closed_control_has_no_gradient_left(x, energy):
    y, h, price = measured("linear"), 1 - S, energy(S, 1 - S)
    control = solved(y, x, leeway(0.7, price, h), h)
    slope = value_and_grad(lambda u: price * dot(u, u) - 0.7 * y(x + h * u), control)[1]
    assert control.abs().min() > 1e-3
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-10, rtol=0)


def test_a_control_that_costs_nothing_is_bounded():
    """flux2 at t = 0: as if it cost 0.001 h^2."""
    h, nothing = torch.tensor(0.5).double(), torch.zeros(()).double()
    assert float(leeway(0.7, flux2(nothing, h), h)) == pytest.approx(0.7 / 0.002)
    assert float(leeway(0.7, 0.01 * h**2, h)) == pytest.approx(0.7 / 0.02)


@pytest.mark.parametrize("kind", ["linear", "curved"])
@pytest.mark.parametrize("energy", ENERGIES)
def test_a_plan_of_one_step_is_that_of_mpc_flow(mixture, x, energy, kind):
    """The clean end that it goes by and, with it, the same state; strength is in units of 1 / std^2 there."""
    y, ends = measured(kind), mixture.ends(x, S)
    times = torch.stack([S, torch.ones(()).double()])
    step = next(iter(mpc_flow(mixture, y, x, times, strength=0.7 / STD**2, energy=energy, inner=exactly)))
    plan = planned(mixture, y, x, S, ends, 0.7, energy, exactly)
    torch.testing.assert_close(plan.clean, step.clean, atol=1e-8, rtol=0)
    torch.testing.assert_close((1 - S) * plan.source + S * plan.clean, x, atol=1e-12, rtol=0)
    assert (plan.clean - ends.clean).abs().max() > 0.05
    if kind == "linear":
        closed = planned(mixture, y, x, S, ends, 0.7, energy, inner.exact)
        torch.testing.assert_close(closed.clean, plan.clean, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "curved"])
def test_a_refined_guess_has_no_gradient_left(mixture, x, kind):
    y, weight, unit = measured(kind), torch.tensor(0.3).double(), torch.tensor(0.7).double()
    better = refined(mixture, y, x, weight, unit, exactly)
    slope = value_and_grad(lambda z: (z - x).square().sum(1) / (2 * weight) - y(z), better)[1]
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-7, rtol=0)
    assert (better - x).abs().max() > 0.05
