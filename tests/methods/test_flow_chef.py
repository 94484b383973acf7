"""FlowChef: its steps by hand, for measurements and other rewards, and its relation to MPC-Flow."""

from itertools import pairwise

import pytest
import torch
from laws import TIMES

from flowhelm import MixtureFlow, Noise
from flowhelm.grad import value_and_grad
from flowhelm.path import linear, trig
from flowhelm.steer import flow_chef, mpc_flow
from flowhelm.transition import euler

S, T = TIMES[:2]


def reward(image):
    return -(image - 1).square().sum(1) / 2


@pytest.mark.parametrize("inner", [1, 3])
def test_a_measurement_by_hand(mixture, observed, y, x, inner):
    a, state, noise = observed.matrix, x, Noise(5, 3)
    steps = flow_chef(mixture, y, x, TIMES, rate=0.4, inner=inner, noise=Noise(5, 3))
    for step, (s, t) in zip(steps, pairwise(TIMES), strict=True):
        v = mixture.velocity(state, s)
        misfit = (state + (1 - s) * v) @ a.T - observed.y
        for _ in range(inner):
            state = state - 0.4 * ((state + (1 - s) * v) @ a.T - observed.y) @ a
        clean = state + (1 - s) * v
        state = t * clean + ((1 - t) * noise(state) if t < 1 else 0)
        torch.testing.assert_close(step.clean, clean, atol=1e-12, rtol=0)
        torch.testing.assert_close(step.x, state, atol=1e-12, rtol=0)
        torch.testing.assert_close(step.info["reward"], -misfit.square().sum(1) / 2 / y.std**2)


@pytest.mark.parametrize("path", [linear, trig])
def test_another_reward_by_hand(mixture, x, path):
    flow, state = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path), x
    for step, (s, t) in zip(flow_chef(flow, reward, x, TIMES, rate=0.1), pairwise(TIMES), strict=True):
        (alpha, sigma, d_alpha, d_sigma), v = path(s), flow.velocity(state, s)
        clean = lambda z, v=v, c=(d_alpha * sigma - d_sigma * alpha), m=(sigma, d_sigma): (m[0] * v - m[1] * z) / c  # noqa: E731
        torch.testing.assert_close(step.info["reward"], reward(clean(state)))
        for _ in range(3):
            state = state + 0.1 * (1 - clean(state))
        source = (d_alpha * state - alpha * v) / (d_alpha * sigma - d_sigma * alpha)
        torch.testing.assert_close(step.clean, clean(state), atol=1e-12, rtol=0)
        state = state + (t - s) * (d_sigma * source + d_alpha * clean(state))
        torch.testing.assert_close(step.x, state, atol=1e-12, rtol=0)


def test_the_correction_of_mpc_flow_is_a_fraction_of_it(mixture, y, x):
    """One gradient step on the K = 1 plan, from 0, moves the state h (1-t) strength grad: a chef of that rate."""
    descend = lambda cost, start, closed: start - value_and_grad(cost, start)[1]  # noqa: E731
    planned = next(mpc_flow(mixture, y, x, TIMES, strength=3.0, inner=descend)).x
    rate = float(3.0 * (T - S) * (1 - S))
    torch.testing.assert_close(
        next(flow_chef(mixture, y, x, TIMES, rate=rate, inner=1, transition=euler)).x, planned, atol=1e-12, rtol=0
    )
