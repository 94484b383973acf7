"""The error of a velocity against conditional variances, and the weights that it gives."""

import pytest
import torch
from toys import double

from flowhelm import GaussianFlow, Noise
from flowhelm.velocity_error import errors, normal, reciprocal, table


def test_the_error_of_an_exact_flow_is_the_conditional_variance():
    """tr Cov[clean - source | x_t]: of independent normal ends with covariances S and I, in matrices."""
    root = torch.tensor([[0.9, 0.0, 0.1], [0.3, 0.4, 0.0], [0.2, -0.1, 1.3]], dtype=torch.float64)
    s, eye = root @ root.T, torch.eye(3, dtype=torch.float64)
    many = torch.block_diag(*[s] * 20)  # a row is 20 draws
    flow, noise = GaussianFlow(double([1.0, 0.0, -2.0] * 20), many), Noise(4, 1_500)
    times = double([0.0, 0.2, 0.5, 0.8, 1.0])
    found = errors(flow, flow.sample(noise), times, noise)
    for t, error in zip(times, found, strict=True):
        with_state, state = t * s - (1 - t) * eye, t**2 * s + (1 - t) ** 2 * eye
        expected = (s + eye - with_state @ torch.linalg.inv(state) @ with_state).trace() / 3
        print(f"t {float(t):.1f}: error {float(error):.4f}, exact {float(expected):.4f}")
        assert abs(error / expected - 1) < 0.02


def test_weights_are_reciprocal_errors_one_on_average():
    error = double([0.6, 0.3, 0.2, 0.5])
    r = reciprocal(error)
    torch.testing.assert_close(r.mean(), double(1.0))
    torch.testing.assert_close(r * error, (r * error)[:1].expand(4), atol=1e-5, rtol=0)
    weights = table(double([0.1, 0.2, 0.6, 0.9]), r)
    for t, expected in ((0.0, r[0]), (0.1, r[0]), (0.3, 0.75 * r[1] + 0.25 * r[2]), (0.6, r[2]), (1.0, r[3])):
        torch.testing.assert_close(weights(double(t)), expected)


def test_a_table_needs_increasing_times_and_weights_from_0_on():
    times = double([0.0, 0.5, 1.0])
    for t, r in (
        (times.flip(0), torch.ones(3)),
        (times, -torch.ones(3)),
        (times, torch.ones(2)),
        (times[:1], torch.ones(1)),
    ):
        with pytest.raises(ValueError, match="table: expected at least 2 increasing times"):
            table(t, r)


def test_the_weights_of_a_standard_normal_are_one_over_its_error():
    """Var[clean - source | x_t] = 1 / (t^2 + (1-t)^2) per dimension for N(0, I), and 1 on average over all times."""
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    error = 2 - (t - (1 - t)) ** 2 / (t**2 + (1 - t) ** 2)
    weights = normal(t)
    torch.testing.assert_close(weights * error, torch.full_like(t, 1.5))
    assert float(torch.trapezoid(weights, t)) == pytest.approx(1, abs=1e-6)
