"""The figures of `bench.exact.interpolant` where they are known."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from flowhelm.bench.exact import interpolant as bench
from flowhelm.metrics import sliced_w2


@pytest.fixture(scope="module")
def of():
    return bench.law()


def test_samples_and_density_are_of_the_same_law(of):
    known = MixtureSameFamily(Categorical(of.weights), MultivariateNormal(of.means, of.covariances))
    x = bench.samples(of, 20_000, 0)
    torch.testing.assert_close(bench.log_density(of, x), known.log_prob(x), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(x.mean(0), known.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(x.var(0), known.variance, atol=0.2, rtol=0)


def test_samples_of_the_law_are_judged_to_be_of_it(of):
    truth = bench.samples(of, 4000, 1)
    own, off = (bench.judged(of, truth, bench.samples(of, 4000, 2) + shift) for shift in (0.0, 0.2))
    assert abs(own.divergence) < 0.2
    assert own.surprise == pytest.approx(-float(bench.log_density(of, truth).mean()), abs=0.1)
    assert own.apart == float(sliced_w2(bench.samples(of, 4000, 2), truth))
    # a law moved by c: KL is E[log p(x) - log p(x - c)], of which neighbours find a half to all
    seen = truth[:1000]
    moved = float((bench.log_density(of, seen) - bench.log_density(of, seen - 0.2)).mean())
    assert 0.5 * moved < off.divergence - own.divergence < moved
    assert off.apart > 2 * own.apart


def test_a_state_is_carried_row_by_row():
    """States of one stream `(1, n, d)` and a batch `(n, d)` get the same field."""
    torch.manual_seed(0)
    net, x = bench.Mlp(bench.SIZE), torch.randn(7, bench.SIZE)
    torch.testing.assert_close(net(x[None], torch.tensor(0.3))[0], net(x, torch.full((7,), 0.3)))
