"""FIG and FIG+: their steps in matrices."""

from itertools import pairwise

import pytest
import torch
from laws import EYE

from flowhelm import Function, Linear, Measurement, MixtureFlow, Noise
from flowhelm.grad import value_and_grad
from flowhelm.path import linear, trig
from flowhelm.restore.fig import fig

TIMES = torch.tensor([0.3, 0.42, 0.8, 1.0], dtype=torch.float64)
S, T = TIMES[:2]


def two(x):
    """Two numbers of each row, the second much weaker, so that the root of their number shows."""
    return x @ torch.tensor([[0.6, 0.3], [0.1, -0.2]], dtype=torch.float64).T


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("w", [0.0, 0.7])
@pytest.mark.parametrize("mix", [0.0, 0.9])
def test_by_hand(mixture, observed, y, x, path, w, mix):
    flow = MixtureFlow(mixture.weights, mixture.means, mixture.covariances, path)
    a, noise, state = observed.matrix, Noise(5, 3), x
    hidden = EYE - torch.linalg.pinv(a) @ a
    times = torch.tensor([0.0, 0.1, 0.42, 0.8, 1.0], dtype=torch.float64)
    steps = fig(flow, y, x, times, rate=0.02, inner=2, w=w, mix=mix, noise=Noise(5, 3))
    for step, (s, t) in zip(steps, pairwise(times), strict=True):
        ends, (alpha, sigma, *_), later = flow.ends(state, s), path(s), path(t)
        state = state + (t - s) * flow.velocity(state, s)
        if s > 0 and t < 1:
            seen = later.alpha * observed.y + (w * later.sigma * noise(state) @ a.T if w else 0)
            for _ in range(2):
                length, gradient = value_and_grad(lambda z, seen=seen: (z @ a.T - seen).norm(dim=1), state)
                state = state - torch.minimum(0.02 * sigma / alpha, length)[:, None] * gradient
            if mix:
                fresh = later.alpha * ends.clean + later.sigma * noise(state)
                state = state @ (EYE - hidden).T + ((1 - mix) * state + mix * fresh) @ hidden.T
        torch.testing.assert_close(step.x, state, atol=1e-9, rtol=0)
        torch.testing.assert_close(step.clean, ends.clean, atol=1e-9, rtol=0)
        torch.testing.assert_close(step.info["misfit"], (ends.clean @ a.T - observed.y).square().sum(1) / 2)


def test_a_rate_counts_the_numbers_measured(mixture, x):
    y = Measurement(torch.ones(3, 2, dtype=torch.float64), Linear(two, (2,)), 0.2)
    step = next(fig(mixture, y, x, TIMES, rate=0.01, inner=1, mix=0.0))
    state = x + (T - S) * mixture.velocity(x, S)
    _, gradient = value_and_grad(lambda z: (two(z) - T).norm(dim=1), state)
    expected = state - 0.01 * 2**0.5 * (1 - S) / S * gradient
    torch.testing.assert_close(step.x, expected, atol=1e-12, rtol=0)


def test_hidden_numbers_do_not_count(mixture, x):
    """The step is that of y without what the mask hides, whatever stands there."""
    whole, mask = torch.ones(3, 2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    masked = Measurement(whole * mask + 9 * (1 - mask), Linear(lambda z: z * mask, (2,)), 0.2)
    cut = Measurement(whole[:, :1], Linear(lambda z: z[:, :1], (2,)), 0.2)
    steps = [next(fig(mixture, y, x, TIMES, rate=0.01, inner=2, mix=0.0)).x for y in (masked, cut)]
    torch.testing.assert_close(*steps, atol=1e-12, rtol=0)


def test_no_step_is_longer_than_the_residual(mixture, y, x):
    """A huge rate is a unit step on 1/2 |A x - y_t|^2: it never leaps over the solution of |A| = 1."""
    step = next(fig(mixture, y, x, TIMES, rate=1e6, inner=1, mix=0.0))
    state = x + (T - S) * mixture.velocity(x, S)
    pull = y.operator.A_adjoint(y.operator.A(state) - T * y.y)
    torch.testing.assert_close(step.x, state - pull, atol=1e-12, rtol=0)


def test_a_fit_is_left_alone(mixture, y, x):
    """At residual 0 the norm has no gradient."""
    exact = Measurement(
        (x + (T - S) * mixture.velocity(x, S)) @ torch.tensor([[1.0, 0.5]]).double().T / T, y.operator, 0.2
    )
    step = next(fig(mixture, exact, x, TIMES, mix=0.0))
    torch.testing.assert_close(step.x, x + (T - S) * mixture.velocity(x, S), atol=1e-12, rtol=0)


def test_what_cannot_be_is_told(mixture, y, x):
    curved = Measurement(y.y, Function(lambda z: z[:, :1] ** 2), 0.2)
    with pytest.raises(ValueError, match="linear measurement on a pixel prior"):
        next(fig(mixture, curved, x, TIMES, mix=0.0))
    for wrong in ({"mix": 0.5}, {"mix": 0.0, "w": 1.0}):
        with pytest.raises(ValueError, match="expected a Noise where w or mix is not 0"):
            next(fig(mixture, y, x, TIMES, **wrong))
