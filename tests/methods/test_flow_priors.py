"""Flow-Priors: its trace, its gradient and its step against formulas written out in matrices; float64, exact priors."""

from functools import partial

import pytest
import torch
from laws import EYE, rows

from flowhelm import Noise
from flowhelm.grad import value_and_grad
from flowhelm.grids import uniform
from flowhelm.restore.flow_priors import _cost, _misfit, flow_priors

S, T = torch.tensor([0.3, 0.42], dtype=torch.float64)
H = T - S


@pytest.fixture
def source():
    return torch.randn(3, 2, dtype=torch.float64)


def slope(flow, x):
    """dv/dx at time S, per row: D = x + (1-t) v."""
    return (flow.jacobian(x, S) - EYE) / (1 - S)


def test_the_trace_is_exact_on_average_over_all_signs(gaussian, y, x, source):
    """E e^T J e = tr J for independent signs; the four pairs of signs are all there is in two dimensions."""
    means = []
    for signs in ([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]):
        draw = lambda like, e=signs: 0.3 * torch.tensor([e] * 3, dtype=torch.float64)  # noqa: E731
        means.append(_cost(gaussian, partial(_misfit, gaussian, y, source, T), S, T, 0.0, draw, x.requires_grad_()))
    assert not torch.allclose(means[0], means[1], atol=1e-3)
    x = x.detach()
    jacobian = (S * gaussian.covariance - (1 - S) * EYE) @ torch.linalg.inv(
        S**2 * gaussian.covariance + (1 - S) ** 2 * EYE
    )
    score = (S * gaussian.velocity(x, S) - x) / (1 - S)
    expected = H * jacobian.trace() - (score * x).sum(1)
    torch.testing.assert_close(sum(means).detach() / 4, expected, atol=1e-12, rtol=0)


def gradient(flow, observed, source, x, s, t, strength, signs):
    """Of strength/2 |A x' - y'|^2 + h e^T J e - log p_s(x), in matrices; J's own derivative by central differences."""
    h, a, jacobian = t - s, observed.matrix, slope(flow, x)
    ahead = x + h * flow.velocity(x, s)
    target = t * observed.y + (1 - t) * source @ a.T
    fit = rows((EYE + h * jacobian).mT, (ahead @ a.T - target) @ a)
    bend = []
    for e in EYE:
        up, down = (slope(flow, x + sign * 1e-5 * e) for sign in (1, -1))
        bend.append(torch.einsum("bi,bij,bj->b", signs, (up - down) / 2e-5, signs))
    return strength * fit + h * torch.stack(bend, 1) - flow.score(x, s)


@pytest.mark.parametrize("strength", [0.0, 30.0])
def test_the_gradient_is_that_of_the_posterior_of_the_state(mixture, observed, y, x, source, strength):
    signs = torch.where(Noise(4, 3)(x) < 0, -1.0, 1.0).double()
    expected = gradient(mixture, observed, source, x, S, T, strength, signs)
    cost = partial(_cost, mixture, partial(_misfit, mixture, y, source, T), S, T, strength, Noise(4, 3))
    torch.testing.assert_close(value_and_grad(cost, x)[1], expected, atol=1e-7, rtol=1e-7)


def test_a_step_by_hand(mixture, observed, y, x, source):
    """Two iterations of Adam (the first is the sign of the gradient), then an Euler step from where they end."""
    noise = Noise(4, 3)
    z, first, second = x, 0.0, 0.0
    for k in (1, 2):
        g = gradient(mixture, observed, source, z, S, T, 30.0, torch.where(noise(x) < 0, -1.0, 1.0).double())
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        z = z - 0.05 * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
        if k == 1:
            torch.testing.assert_close(z, x - 0.05 * g.sign(), atol=1e-8, rtol=0)
    expected = z + H * mixture.velocity(z, S)
    times = torch.stack([S, T, torch.ones_like(T)])
    options = {"strength": 30.0, "inner": 2, "rate": 0.05, "source": source, "noise": Noise(4, 3)}
    step = next(flow_priors(mixture, y, x, times, **options))
    torch.testing.assert_close(step.x, expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(step.clean, mixture.ends(z, S).clean, atol=1e-7, rtol=0)
    residual = (step.x - (1 - T) * source) @ observed.matrix.T - T * observed.y
    torch.testing.assert_close(step.info["misfit"], residual.square().sum(1) / 2, atol=1e-12, rtol=0)


def test_at_the_source_the_prior_is_the_normal_law(mixture, observed, y, x):
    """-log p_0 = |x|^2 / 2: its gradient is x."""
    zero, t = torch.zeros((), dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)
    cost = partial(_cost, mixture, partial(_misfit, mixture, y, x, t), zero, t, 0.0, lambda like: like * 0)
    _, g = value_and_grad(cost, x)
    up, down = (((mixture.jacobian(x + d * EYE[0], zero + 1e-9) - EYE).sum((1, 2))) for d in (1e-5, -1e-5))
    # the clean estimate at t = 0 is the mean whatever x, so that nothing of the trace is left
    assert (up - down).abs().max() < 1e-6
    torch.testing.assert_close(g, x, atol=1e-7, rtol=0)


def test_mistakes_are_told(mixture, y, x):
    times, noise = uniform(5), Noise(4, 3)
    with pytest.raises(ValueError, match="`source` to resume"):
        next(flow_priors(mixture, y, x, times[2:], noise=noise))
    with pytest.raises(ValueError, match="end at 1"):
        next(flow_priors(mixture, y, x, times[:-1], noise=noise))
