import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import PATHS, double

from flowhelm import GaussianFlow
from flowhelm import path as paths
from flowhelm.path import VP, Ends, linear, trig

interior = st.floats(0.02, 0.98)


def images(seed, rows=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, 2, 3, 4, generator=generator, dtype=torch.float64)


@PATHS
@given(t=st.one_of(interior, st.lists(interior, min_size=3, max_size=3)), seed=st.integers(0, 99))
def test_every_change_of_basis_is_undone(path, t, seed):
    source, clean = images(seed)
    t = double(t)
    x = paths.mix(path, source, clean, t)
    v = paths.velocity(path, Ends(source, clean), t)
    for ends in (
        paths.ends_from_velocity(path, v, x, t),
        paths.ends_from_clean(path, clean, x, t),
        paths.ends_from_source(path, source, x, t),
    ):
        torch.testing.assert_close(ends, Ends(source, clean), atol=1e-10, rtol=1e-10)


@PATHS
def test_times_of_rows_act_on_their_rows(path):
    source, clean = images(0)
    t = double([0.1, 0.5, 0.9])
    mixed, v = paths.mix(path, source, clean, t), paths.velocity(path, Ends(source, clean), t)
    for i in range(3):
        c = path(t[i])
        torch.testing.assert_close(mixed[i], c.sigma * source[i] + c.alpha * clean[i], atol=1e-14, rtol=0)
        torch.testing.assert_close(v[i], c.d_sigma * source[i] + c.d_alpha * clean[i], atol=1e-12, rtol=0)


@PATHS
def test_rates_are_the_derivatives(path):
    t, h = torch.linspace(0.02, 0.98, 49, dtype=torch.float64), 1e-5
    before, now, after = path(t - h), path(t), path(t + h)
    torch.testing.assert_close(now.d_alpha, (after.alpha - before.alpha) / (2 * h), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(now.d_sigma, (after.sigma - before.sigma) / (2 * h), atol=1e-6, rtol=1e-6)


def test_coefficients_are_those_of_the_papers():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(linear(t).alpha, t)
    assert torch.equal(linear(t).sigma, 1 - t)
    torch.testing.assert_close(trig(t).alpha, torch.sin(torch.pi / 2 * t), atol=1e-15, rtol=0)
    torch.testing.assert_close(trig(t).sigma, torch.cos(torch.pi / 2 * t), atol=1e-15, rtol=0)
    assert trig(t).sigma[-1] == 0
    assert trig(t).alpha[0] == 0
    # Song et al. 2021: log alpha = -1/2 int_0^u beta, u = 1 - t, by the trapezoid rule, which is exact for a linear beta
    u, vp = 1 - t, VP(0.3, 12.0)
    beta = 0.3 + (12.0 - 0.3) * u
    torch.testing.assert_close(vp(t).alpha, torch.exp(-0.5 * u * (0.3 + beta) / 2), atol=1e-14, rtol=0)
    torch.testing.assert_close(vp(t).alpha ** 2 + vp(t).sigma ** 2, torch.ones_like(t), atol=1e-14, rtol=0)


@PATHS
@given(ratio=st.floats(0.02, 500))
def test_time_at_snr_inverts_the_ratio(path, ratio):
    t = paths.time_at_snr(path, double(ratio))
    c = path(t)
    torch.testing.assert_close(c.alpha / c.sigma, double(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "path", [linear, trig, VP(), VP(0.3, 12.0), VP(2.0, 2.0)], ids=lambda path: getattr(path, "__name__", str(path))
)
def test_time_at_snr_in_closed_form_is_that_of_the_bisection(path):
    """And of a path that it does not know, which it bisects."""
    ratio = torch.logspace(-4, 6, 200, dtype=torch.float64)
    closed, bisected = paths.time_at_snr(path, ratio), paths.time_at_snr(lambda t: path(t), ratio)
    torch.testing.assert_close(closed, bisected, atol=1e-12, rtol=0)
    assert (closed.diff() >= 0).all()


@PATHS
def test_time_at_snr_ends(path):
    t = paths.time_at_snr(path, torch.tensor([[0.0, torch.inf, 1e-9, 1e9]]))
    assert t.shape == (1, 4)
    assert t.dtype == torch.float64
    torch.testing.assert_close(t, double([[0.0, 1.0, 0.0, 1.0]]), atol=1e-8, rtol=0)


@PATHS
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, [0.2, 0.7]])
def test_score_is_the_gradient_of_the_log_density(path, t, gaussian):
    flow, t = GaussianFlow(gaussian.mean, gaussian.covariance, path), double(t)
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(flow.log_density(x, t).sum(), x)
    torch.testing.assert_close(paths.score(path, flow.ends(x.detach(), t), t), expected, atol=1e-9, rtol=1e-9)


@PATHS
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, [0.2, 0.7]])
def test_tilted_ends_are_those_of_the_posterior(path, t, gaussian):
    """A normal likelihood of the clean end leaves the law normal: its ends are known without the formula."""
    matrix, std = torch.tensor([[1.0, -0.3]], dtype=torch.float64), 0.4
    gain = matrix.T @ matrix / std**2
    covariance = torch.linalg.inv(torch.linalg.inv(gaussian.covariance) + gain)
    mean = covariance @ (torch.linalg.solve(gaussian.covariance, gaussian.mean) + matrix[0] * 0.9 / std**2)
    prior, posterior = (GaussianFlow(m, c, path) for m, c in ((gaussian.mean, gaussian.covariance), (mean, covariance)))
    x, t = torch.randn(2, 2, dtype=torch.float64), double(t)
    ends, expected = prior.ends(x, t), posterior.ends(x, t)
    pull = paths.score(path, expected, t) - paths.score(path, ends, t)
    torch.testing.assert_close(paths.tilted(path, ends, pull, t), expected, atol=1e-9, rtol=1e-9)


def test_ends_by_rows():
    ends = Ends(*(each.clone().requires_grad_() for each in images(0)))
    index = torch.tensor([2, 0, 2])
    for some, all_, cut in zip(ends.rows(index), ends, ends.detach(), strict=True):
        assert torch.equal(some, all_[index])
        assert torch.equal(cut, all_)
        assert not cut.requires_grad


@pytest.mark.parametrize("t", [0.0, [0.0, 0.0, 0.0]])
def test_ends_are_not_tilted_where_nothing_of_the_clean_end_is_left(t):
    ends = Ends(*images(0))
    tilted = paths.tilted(linear, ends, torch.ones_like(ends.clean), double(t))
    assert torch.equal(tilted.source, ends.source)
    assert torch.equal(tilted.clean, ends.clean)


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t", [0.3, [0.3, 0.6, 0.9]])
def test_float64_times_never_promote_a_state(path, dtype, t):
    source, clean = images(0).to(dtype)
    t, ends = double(t), Ends(source, clean)
    x = paths.mix(path, source, clean, t)
    v = paths.velocity(path, ends, t)
    results = (
        x,
        v,
        paths.score(path, ends, t),
        *paths.ends_from_velocity(path, v, x, t),
        *paths.ends_from_clean(path, clean, x, t),
        *paths.ends_from_source(path, source, x, t),
        *paths.tilted(path, ends, source, t),
    )
    assert {r.dtype for r in results} == {dtype}


@pytest.mark.parametrize("t", [1.0, [1.0, 1.0, 1.0]])
def test_a_clean_state_gives_the_mean_source(t):
    x, clean = images(0)
    ends = paths.ends_from_clean(linear, clean, x, double(t))  # a network's clean estimate is not quite the state
    assert torch.equal(ends.source, torch.zeros_like(clean))
    assert torch.equal(ends.clean, clean)


def test_a_source_tells_nothing_at_time_0():
    source, _ = images(0)
    with pytest.raises(ValueError, match="alpha > 0"):
        paths.ends_from_source(linear, source, source, double(0.0))


@PATHS
@given(t=interior, seed=st.integers(0, 99))
def test_kappa_turns_a_score_into_a_velocity_and_the_variance_is_that_of_bayes(path, t, seed):
    """v = (alpha'/alpha) x + kappa score; 1 / variance = 1 + (alpha / sigma)^2, the precisions of N(m, 1) and of the state."""
    (source, clean), t = images(seed), double(t)
    c, ends = path(t), Ends(source, clean)
    v = c.d_alpha / c.alpha * paths.mix(path, source, clean, t) + c.kappa * paths.score(path, ends, t)
    torch.testing.assert_close(paths.velocity(path, ends, t), v)
    torch.testing.assert_close(1 / c.variance, 1 + (c.alpha / c.sigma) ** 2)
    torch.testing.assert_close(c.deviation**2, c.variance)
