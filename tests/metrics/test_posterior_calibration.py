"""Calibration: the exact posterior of a mixture passes every test, one that is too sure, too wide or biased fails."""

import pytest
import torch

from flowhelm import MixtureFlow, Noise
from flowhelm.metrics import euclidean, kmeans, moments, residual_ratio, sliced_w2
from flowhelm.metrics.calibration import coverage, ecdf_band, ecdf_test, judge, rank_test, ranks, tarp, uniform_test

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
        lambda: ecdf_test(torch.zeros(4, 2, dtype=torch.int64), 5),
    ],
)
def test_mistakes(call):
    with pytest.raises(ValueError, match="expected"):
        call()


# --- ranks of few draws, and the verdict ---


def conjugate(n, k, seed, change=lambda draws, mean: draws, d=6):
    """Truths N(0, 1) in d entries that share a part, seen with noise of the same size: draws of the posterior, `change`d."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    truth = normal(n, d)
    mean = (truth + normal(n, d)) / 2
    draws = change(mean[:, None] + 0.5**0.5 * normal(n, k, d), mean[:, None])
    y = 2 * mean
    fit = (-(draws - y[:, None]).square().sum(-1) / 2, -(truth - y).square().sum(-1) / 2)
    quantities = {"entry 0": (draws[..., 0], truth[:, 0]), "mean": (draws.mean(-1), truth.mean(-1)), "fit": fit}
    return draws, truth, quantities, y / 2 + 0.2 * normal(n, d)


def found(n, k, seed, *change):
    draws, truth, quantities, near = conjugate(n, k, seed, *change)
    return judge(draws, truth, quantities, near, fit="fit")


def test_p_values_of_the_exact_sampler_are_uniform():
    """Of every test that `judge` makes, with few draws and few truths, over 300 problems."""
    judged = [found(40, 9, seed) for seed in range(300)]
    tests = [each.tests for each in judged]
    assert set(tests[0]) == {"entry 0", "mean", "fit", "distance (TARP)", "all entries"}
    for name in tests[0]:
        p = torch.tensor([each[name].p for each in tests])
        assert uniform_test(p).p > 0.005, name
        assert abs(float((p < 0.1).double().mean()) - 0.1) < 0.06, name
    assert [each.verdict for each in judged].count("calibrated") >= 294  # 1 % of all are rejected by chance


WRONG = {
    "over-confident": lambda draws, mean: mean + 0.6 * (draws - mean),
    "under-confident": lambda draws, mean: mean + 1.6 * (draws - mean),
    "biased": lambda draws, mean: draws + 0.5,
}


@pytest.mark.parametrize("verdict", WRONG)
def test_what_is_wrong_is_named(verdict):
    judged = [found(100, 19, seed, WRONG[verdict]) for seed in range(20)]
    assert [each.verdict for each in judged] == [verdict] * 20
    for each in judged:
        assert each.p < 0.01
        if verdict == "biased":
            assert each.bias < -0.5
            assert abs(each.bias) > abs(each.spread)
        else:
            assert (each.spread > 0) == (verdict == "over-confident")
            assert each.tests["distance (TARP)"].p < 0.05  # both tests see it


def test_what_the_marginals_do_not_show_is_told_by_the_fit():
    """Draws whose entries are right but all move together are too wide in their mean, and right in each entry."""

    def together(draws, mean):
        return mean + (draws - mean)[..., :1]

    judged = found(200, 19, 0, together)
    assert judged.tests["entry 0"].p > 0.01
    assert judged.tests["mean"].p < 0.001
    assert judged.tests["distance (TARP)"].p < 0.05
    assert judged.verdict != "calibrated"


def test_ranks_of_few_draws_are_not_rejected_for_being_few():
    """5 draws make 6 ranks; the law of Kolmogorov and Smirnov would find these of 2000 truths not uniform."""
    rank = torch.randint(0, 6, (2000,), generator=torch.Generator().manual_seed(0))
    assert uniform_test(rank / 5).p < 1e-6
    assert ecdf_test(rank, 5).p > 0.05


def test_the_band_holds_all_of_the_curve():
    generator, inside = torch.Generator().manual_seed(1), 0
    share = torch.arange(1, 20).double() / 20
    band = ecdf_band(50, 19, 0.9)
    assert band.shape == (19,)
    torch.testing.assert_close(band, band.flip(0))
    for _ in range(500):
        rank = torch.randint(0, 20, (50,), generator=generator)
        curve = torch.bincount(rank, minlength=20).cumsum(0)[:-1] / 50
        within = bool(((curve - share).abs() <= band + 1e-12).all())
        assert within == (ecdf_test(rank, 19).p >= 0.1)
        inside += within
    assert abs(inside / 500 - 0.9) < 0.04


def test_units():
    """Four ranks of 0 among one draw: the ECDF is 1 where it should be 1/2, two deviations off."""
    assert ecdf_test(torch.zeros(4, dtype=torch.int64), 1).statistic == pytest.approx(2)
    # few draws make coarse places, which are less spread than uniform numbers: no fault of the sampler
    judged = found(20000, 2, 0)
    assert abs(judged.spread) < 0.03
    assert judged.tests["all entries"].p > 0.01


def test_a_single_number_is_a_picture_of_one_entry(exact):
    """Draws (n, k) of truths (n,) are draws (n, k, 1) of truths (n, 1)."""
    draws, truth, y = exact
    draws, truth, points = draws[..., 0], truth[:, 0], references(y)[:, 0]
    levels = torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert torch.equal(coverage(draws, truth, levels), coverage(draws[..., None], truth[:, None], levels))
    torch.testing.assert_close(coverage(draws, truth, levels), levels, atol=0.05, rtol=0)
    assert torch.equal(tarp(draws, truth, points), tarp(draws[..., None], truth[:, None], points[:, None]))
    found = judge(draws, truth, {"it": (draws, truth)}, points)
    other = judge(draws[..., None], truth[:, None], {"it": (draws, truth)}, points[:, None])
    assert (found.verdict, found.p, found.spread) == (other.verdict, other.p, other.spread)
    assert found.verdict == "calibrated"
    assert residual_ratio(truth, 0.5).tolist() == residual_ratio(truth[:, None], 0.5).tolist()
    for one in (lambda x: sliced_w2(x, x + 1), lambda x: moments(x)[0], lambda x: euclidean(x), lambda x: kmeans(x, 3)):
        assert torch.equal(one(truth), one(truth[:, None]))
