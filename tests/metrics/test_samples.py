"""Sample metrics against POT, closed forms and their own invariants."""

import ot
import pytest
import torch
from toys import double

from flowhelm.metrics import frechet, gaussian_w2, mean_error, moments, sliced_w2, trace_ratio


@pytest.fixture
def a():
    return torch.randn(40, 3).double() * 1.3 + 0.4


@pytest.fixture
def b():
    return torch.randn(25, 3).double()


@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_w2_is_that_of_a_library(a, b, weighted):
    w, v = (torch.rand(40).double(), torch.rand(25).double()) if weighted else (None, None)
    directions = torch.nn.functional.normalize(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=1
    )
    expected = ot.sliced_wasserstein_distance(
        a.numpy(), b.numpy(), None if w is None else (w / w.sum()).numpy(),
        None if v is None else (v / v.sum()).numpy(), projections=directions.T.numpy(),
    )  # fmt: skip
    assert float(sliced_w2(a, b, w, v, projections=50, seed=3)) == pytest.approx(float(expected), rel=1e-10)


def test_weights_are_repetitions(a, b):
    counts = torch.arange(40) % 4
    repeated, weights = a.repeat_interleave(counts, 0), 7.0 * counts
    torch.testing.assert_close(sliced_w2(a, b, weights), sliced_w2(repeated, b), atol=1e-10, rtol=0)
    torch.testing.assert_close(gaussian_w2(a, b, weights), gaussian_w2(repeated, b), atol=1e-10, rtol=0)
    for value, expected in zip(moments(a, weights), moments(repeated), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-12, rtol=0)
    assert float(sliced_w2(a, repeated, weights)) < 1e-7


def test_a_shift_has_the_length_of_its_mean_projection(a):
    shift = double([0.3, -1.0, 0.5])
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    expected = (directions @ shift).square().mean().sqrt()
    torch.testing.assert_close(sliced_w2(a + shift, a, projections=64), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(gaussian_w2(a + shift, a), shift.norm(), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_error(a + shift, a.mean(0)), shift.norm())
    # in many dimensions it is |shift| / sqrt(d) on average over directions
    torch.testing.assert_close(expected, shift.norm() / 3**0.5, atol=0.1, rtol=0)


def test_moments_of_a_sample(a):
    mean, covariance = moments(a.view(40, 3, 1))
    torch.testing.assert_close(mean, a.mean(0))
    torch.testing.assert_close(covariance, torch.cov(a.T, correction=0))
    torch.testing.assert_close(trace_ratio(2 * a, covariance), double(4.0))


def test_gaussian_w2_is_the_root_of_frechet(a, b):
    torch.testing.assert_close(gaussian_w2(a, b) ** 2, frechet(*moments(a), *moments(b)))


@pytest.mark.parametrize("weights", [torch.ones(39), torch.zeros(40), -torch.ones(40), torch.full((40,), torch.nan)])
def test_bad_weights_and_dimensions_are_told(a, b, weights):
    with pytest.raises(ValueError, match="weights"):
        sliced_w2(a, b, weights)
    with pytest.raises(ValueError, match="one dimension"):
        sliced_w2(a, a[:, :2])
