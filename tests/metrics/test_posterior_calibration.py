"""Calibration: the exact posterior of a mixture passes every test, one that is too sure, too wide or biased fails."""

import pytest
import torch

from flowhelm.flow import MixtureFlow
from flowhelm.metrics.calibration import coverage, rank_test, ranks, tarp, uniform_test
from flowhelm.rng import Noise

N, K = 400, 40


def problem(change):
    """Truths of a mixture in the plane, a noisy look at one direction, and `change`d draws of the exact posterior."""
    root = torch.tensor([[[1.0, 0.0], [0.5, 0.6]], [[0.4, 0.0], [-0.2, 0.9]]], dtype=torch.float64)
    means = torch.tensor([[-1.0, 0.5], [1.5, -0.5]], dtype=torch.float64)
    prior = MixtureFlow(torch.tensor([0.4, 0.6], dtype=torch.float64), means, root @ root.mT)
    truth = prior.sample(Noise(10**6, N))
    look, noise = torch.tensor([[1.0, 0.5]], dtype=torch.float64), 0.3
    y = truth @ look.T + noise * Noise(2 * 10**6, N)(torch.empty(N, 1, dtype=torch.float64))
    draws = torch.stack(
        [
            prior.posterior(look, y[i], torch.tensor([[noise**2]], dtype=torch.float64)).sample(Noise(10**4 + i, K))
            for i in range(N)
        ]
    )
    return change(draws), truth, y


def shrunk(factor):
    return lambda draws: draws.mean(1, keepdim=True) + factor * (draws - draws.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def exact():
    return problem(lambda draws: draws)


def references(y):
    """Near what was measured, and off it."""
    return torch.cat([y, y], dim=1) + Noise(3 * 10**6, N)(torch.empty(N, 2, dtype=torch.float64))


def test_the_exact_posterior_passes(exact):
    draws, truth, y = exact
    levels = torch.tensor([0.5, 0.8, 0.9], dtype=torch.float64)
    torch.testing.assert_close(coverage(draws, truth, levels), levels, atol=0.04, rtol=0)
    rank = ranks(draws, truth)
    assert rank.shape == (N, 2)
    assert rank.min() >= 0
    assert rank.max() <= K
    for entry in range(2):
        assert rank_test(rank[:, entry], K).p > 0.01
    assert uniform_test(tarp(draws, truth, references(y))).p > 0.01


CHANGES = {"too sure": shrunk(0.7), "too wide": shrunk(1.5), "biased": lambda draws: draws + 0.3}


@pytest.mark.parametrize("changed", CHANGES)
def test_a_wrong_one_fails(exact, changed):
    draws, truth, y = exact
    draws = CHANGES[changed](draws)
    assert min(rank_test(ranks(draws, truth)[:, entry], K).p for entry in range(2)) < 1e-4
    # a shift of a third of a standard deviation is hard to see in distances from points all around
    assert uniform_test(tarp(draws, truth, references(y))).p < (1e-3 if changed != "biased" else 0.05)


def test_a_too_sure_one_covers_too_little(exact):
    draws, truth, _ = exact
    levels = torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert (coverage(shrunk(0.7)(draws), truth, levels) < levels - 0.08).all()
    assert (coverage(shrunk(1.5)(draws), truth, levels) > levels + 0.04).all()


def test_p_values_are_uniform_under_the_truth():
    generator = torch.Generator().manual_seed(0)
    chi = [rank_test(torch.randint(0, K + 1, (300,), generator=generator), K).p for _ in range(300)]
    ks = [uniform_test(torch.rand(300, generator=generator)).p for _ in range(300)]
    for p in (chi, ks):
        below = [sum(each < level for each in p) / 300 for level in (0.1, 0.5, 0.9)]
        assert below == pytest.approx([0.1, 0.5, 0.9], abs=0.09)


def test_ranks_and_statistics_by_hand():
    draws = torch.tensor([[[1.0], [2.0], [3.0]], [[5.0], [4.0], [4.0]]])
    truth = torch.tensor([[2.5], [4.0]])
    assert ranks(draws, truth).tolist() == [[2], [1]]
    shares = tarp(draws, truth, torch.tensor([[0.0], [10.0]]))
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 3])
    # 3 ranks in 3 bins, expected 1 each: (2-1)^2 + (0-1)^2 + (1-1)^2 = 2; with 2 degrees of freedom p = exp(-1)
    tested = rank_test(torch.tensor([0, 0, 2]), 2, bins=3)
    assert tested.statistic == pytest.approx(2)
    assert tested.p == pytest.approx(float(torch.tensor(-1.0).exp()), rel=1e-6)
    assert uniform_test(torch.tensor([0.5])).statistic == pytest.approx(0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ranks(torch.zeros(2, 3, 4), torch.zeros(2, 5)),
        lambda: rank_test(torch.zeros(2, 2, dtype=torch.int64), 3),
        lambda: tarp(torch.zeros(2, 3, 4), torch.zeros(2, 4), torch.zeros(2, 3)),
    ],
)
def test_mistakes(call):
    with pytest.raises(ValueError, match="expected"):
        call()
