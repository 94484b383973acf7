"""STSL against matrices and against DPS, of which it is the second order."""

from functools import partial

import pytest
import torch
from laws import TIMES, first

from flowhelm import Linear, Measurement, Noise
from flowhelm.restore import dps, stsl
from flowhelm.transition import ancestral

T, H = TIMES[0], TIMES[1] - TIMES[0]
MATRIX = torch.tensor([[1.0, 0.5], [-0.4, 0.9], [0.2, 0.7]], dtype=torch.float64)
STD = 0.2


@pytest.fixture
def y():
    return Measurement(torch.randn(3, 3).double(), Linear(lambda x: x @ MATRIX.T, (2,)), STD)


def trace(flow, x, t):
    return (MATRIX @ flow.covariance(x, t) @ MATRIX.T).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("transition", [None, ancestral])
def test_without_the_variance_it_is_dps_bit_for_bit(mixture, y, x, exact, transition):
    move = {} if transition is None else {"transition": transition}
    for flow, state, to in ((mixture, x, torch.float64), (mixture, x, torch.float32)):
        state = state.to(to)
        of = {"exact": exact, "step": 0.7, **move}
        pairs = zip(
            stsl(flow, y, state, flow.times(8), variance_weight=0.0, noise=Noise(1, 3), **of),
            dps(flow, y, state, flow.times(8), noise=Noise(1, 3), **of),
            strict=True,
        )
        for mine, other in pairs:
            assert torch.equal(mine.x, other.x)
            assert torch.equal(mine.clean, other.clean)
            assert torch.equal(mine.info["residual"], other.info["residual"])
            assert not mine.info["variance"].any()


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_one_step_by_hand(mixture, y, x, weight):
    """The gradient of the trace by finite differences of its formula in matrices."""
    clean, eps = mixture.ends(x, T).clean, 1e-5
    residual = clean @ MATRIX.T - y.y
    gradient = (mixture.jacobian(x, T) @ (residual @ MATRIX)[..., None])[..., 0]
    for j in range(2):
        e = eps * torch.eye(2).double()[j]
        gradient[:, j] += weight / 2 * (trace(mixture, x + e, T) - trace(mixture, x - e, T)) / (2 * eps)
    step = first(stsl(mixture, y, x, TIMES, exact=True, step=0.7, variance_weight=weight, probe="exact"))
    expected = x + H * mixture.velocity(x, T) - 0.7 * H * (1 - T) / T / STD**2 * gradient
    torch.testing.assert_close(step.x, expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(step.info["variance"], trace(mixture, x, T), atol=1e-10, rtol=0)
    normed = first(stsl(mixture, y, x, TIMES, step=0.7, variance_weight=weight, probe="exact"))
    expected = x + H * mixture.velocity(x, T) - 0.7 * gradient / residual.norm(dim=1, keepdim=True)
    torch.testing.assert_close(normed.x, expected, atol=1e-7, rtol=0)


def test_a_probe_is_its_quadratic_form(mixture, y, x):
    p = Noise(5, 3)(y.y) @ MATRIX
    step = first(stsl(mixture, y, x, TIMES, noise=Noise(5, 3)))
    expected = torch.einsum("bi,bij,bj->b", p, mixture.covariance(x, T), p)
    torch.testing.assert_close(step.info["variance"], expected, atol=1e-10, rtol=0)


def test_probes_average_to_the_trace_and_to_its_gradient(mixture, y, x):
    """One state in many rows, each with a probe of its own."""
    n, one = 20_000, Measurement(y.y[:1], y.operator, STD)
    of = partial(stsl, mixture, one, x=x[:1].expand(n, 2), times=TIMES, exact=True)
    random, whole = first(of(noise=Noise(0, n))), first(stsl(mixture, one, x[:1], TIMES, exact=True, probe="exact"))
    for value, expected in ((random.info["variance"], whole.info["variance"]), (random.x, whole.x)):
        error = value.std(0) / n**0.5
        print(f"mean {value.mean(0).tolist()}, expected {expected[0].tolist()}, standard error {error.tolist()}")
        assert ((value.mean(0) - expected[0]).abs() < 3.5 * error).all()
        assert (error < 0.02 * (1 + expected[0].abs())).all()


def test_a_secant_is_a_difference_and_its_gradient(mixture, y, x):
    """The gradient by finite differences of the secant, its probe held."""
    u, eps, of = Noise(5, 3)(x), 1e-5, TIMES[0].item()

    def secant(at):
        difference = mixture.ends(at + u, T).clean - mixture.ends(at, T).clean
        return (1 - of) ** 2 / of * (u * difference).sum(1)

    clean = mixture.ends(x, T).clean
    gradient = (mixture.jacobian(x, T) @ ((clean @ MATRIX.T - y.y) @ MATRIX)[..., None])[..., 0]
    for j in range(2):
        e = eps * torch.eye(2).double()[j]
        gradient[:, j] += 0.5 * (secant(x + e) - secant(x - e)) / (2 * eps)
    step = first(stsl(mixture, y, x, TIMES, exact=True, step=0.7, probe="secant", noise=Noise(5, 3)))
    torch.testing.assert_close(step.info["variance"], secant(x), atol=1e-10, rtol=0)
    expected = x + H * mixture.velocity(x, T) - 0.7 * H * (1 - T) / T / STD**2 * gradient
    torch.testing.assert_close(step.x, expected, atol=1e-7, rtol=0)


def test_of_a_gaussian_a_secant_is_a_quadratic_form_and_averages_to_the_trace(gaussian, y, x):
    """D is linear: no probe is too long, and no state is left for it, so that the guidance is that of DPS."""
    n, one = 20_000, Measurement(y.y[:1], y.operator, STD)
    of = {"times": TIMES, "exact": True, "step": 0.7}
    step = first(stsl(gaussian, one, x[:1].expand(n, 2), noise=Noise(0, n), probe="secant", **of))
    u, marginal = Noise(0, n)(x[:1].expand(n, 2)), T**2 * gaussian.covariance + (1 - T) ** 2 * torch.eye(2).double()
    covariance = (1 - T) ** 2 * gaussian.covariance @ marginal.inverse()
    expected = torch.einsum("bi,ij,bj->b", u, covariance, u)
    torch.testing.assert_close(step.info["variance"], expected, atol=1e-10, rtol=0)
    whole, error = covariance.trace(), step.info["variance"].std() / n**0.5
    assert abs(step.info["variance"].mean() - whole) < 3.5 * error < 0.1 * whole
    torch.testing.assert_close(step.x[:1], first(dps(gaussian, one, x[:1], **of)).x, atol=1e-10, rtol=0)


def test_repeats_are_smaller_steps_and_the_last_one_moves(mixture, y, x):
    of = partial(stsl, mixture, y, exact=True, variance_weight=0.0)
    z = x
    for _ in range(2):
        z = z + (first(of(x=z, times=TIMES, step=0.7 / 3)).x - z) - H * mixture.velocity(z, T)
    expected = first(of(x=z, times=TIMES, step=0.7 / 3)).x
    torch.testing.assert_close(first(of(x=x, times=TIMES, step=0.7, repeats=3)).x, expected, atol=1e-10, rtol=0)


def test_before_the_start_nothing_is_drawn_and_nothing_guided(mixture, observed, x):
    times = mixture.times(4)
    for exact in (True, False):
        step = first(stsl(mixture, observed.measurement, x, times, exact=exact, noise=Noise(0, 3)))
        torch.testing.assert_close(step.x, x + times[1] * mixture.velocity(x, times[0]))
        assert not step.info["variance"].any()


def test_a_probe_needs_noise(mixture, observed, x):
    with pytest.raises(ValueError, match="expected a Noise"):
        next(stsl(mixture, observed.measurement, x, TIMES))
    with pytest.raises(ValueError, match="expected a Noise"):
        next(stsl(mixture, observed.measurement, x, TIMES, probe="secant"))
    next(stsl(mixture, observed.measurement, x, TIMES, probe="exact"))
