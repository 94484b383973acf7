"""Maps of samples: quantiles hold what they say, equal samples have no spread, a few are far apart."""

import pytest
import torch

from flowhelm.metrics import coverage, euclidean, posterior_maps, quantiles
from flowhelm.metrics.posterior import distances, held, spread_out


def samples(k, seed=0, shape=(3, 5, 4)):
    return torch.randn(k, *shape, generator=torch.Generator().manual_seed(seed))


def test_moments():
    x = samples(9)
    maps = posterior_maps(x)
    torch.testing.assert_close(maps.mean, x.mean(0))
    torch.testing.assert_close(maps.std, x.std(0))
    assert maps.quantiles.shape == (3, 3, 5, 4)
    assert {each.dtype for each in maps} == {torch.float32}
    # the smallest of nine stands for q05, the fifth is the median
    torch.testing.assert_close(maps.quantiles[0], x.min(0).values)
    torch.testing.assert_close(maps.quantiles[1], x.sort(0).values[4])


def test_equal_samples_have_no_spread():
    x = samples(1).repeat(7, 1, 1, 1) / 3
    maps = posterior_maps(x)
    assert maps.std.eq(0).all()
    assert torch.equal(maps.mean, x[0])
    assert torch.equal(maps.quantiles, x[:3])


@pytest.mark.parametrize(("k", "low", "high"), [(19, 0.05, 0.95), (16, 0.05, 0.95), (7, 0.2, 0.9), (4, 0.5, 0.95)])
def test_an_interval_holds_what_it_says(k, low, high):
    """A further draw of the same law, whatever the law: here a skew one."""
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(k + 1, 40000, generator=generator).exp()
    ends = quantiles(x[:k], (low, high))
    share = float(((ends[0] <= x[k]) & (x[k] <= ends[1])).double().mean())
    # exact where the levels are whole (k + 1)-ths or beyond the extreme ones; between them the law matters a little
    assert share == pytest.approx(held(k, low, high), abs=0.01 if k in (19, 16) else 0.03)
    assert held(19, 0.05, 0.95) == pytest.approx(0.9)
    assert held(16, 0.05, 0.95) == pytest.approx(15 / 17)


def test_the_intervals_are_those_of_coverage():
    x, truth = samples(19, shape=(50,)), samples(1, 1, shape=(50,))[0]
    ends = quantiles(x, (0.1, 0.9))
    mine = ((ends[0] <= truth) & (truth <= ends[1])).double().mean()
    theirs = coverage(x.T[..., None], truth[:, None], torch.tensor([0.8]))
    assert float(mine) == pytest.approx(float(theirs[0]))


def test_distances_by_bands():
    x = samples(6, shape=(3, 13, 4))
    torch.testing.assert_close(distances(x, rows=4), euclidean(x))
    stored = (x * 20 + 128).clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(distances(stored, rows=5), euclidean(stored))


def test_a_few_that_differ():
    """Three clusters: one of each, the middle one first."""
    centres = torch.tensor([-10.0, 0.0, 10.0]).repeat_interleave(4)
    x = (centres + 0.1 * torch.randn(12, generator=torch.Generator().manual_seed(0)))[:, None, None, None]
    few = spread_out(distances(x), 3).tolist()
    assert few[0] // 4 == 1
    assert {i // 4 for i in few} == {0, 1, 2}
    assert len(spread_out(distances(x), 99)) == 12


def test_one_sample_is_no_set():
    with pytest.raises(ValueError, match="posterior_maps: expected two samples or more, got 1"):
        posterior_maps(samples(1))
