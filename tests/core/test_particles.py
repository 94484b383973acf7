import math

import pytest
import torch

from flowhelm.particles import (
    anneal,
    best,
    categorical,
    ess,
    log_mean,
    prompts,
    resampled,
    residual,
    share,
    stratified,
    systematic,
)
from flowhelm.path import trig
from flowhelm.rng import Noise


def counts(log_w, picks):
    b, k = log_w.shape
    assert (picks // k == torch.arange(b).repeat_interleave(k)).all()  # within the row
    return torch.bincount(picks, minlength=b * k).view(b, k)


def test_ess_closed_forms():
    k = 6
    rows = torch.full((4, k), -torch.inf, dtype=torch.float64)
    rows[0] = 3.7  # equal weights, whatever their sum
    rows[1, 2] = -900.0  # one particle
    rows[2, :3] = 900.0  # three equal ones
    rows[3, :2] = torch.tensor([3.0, 1.0]).log()  # (3 + 1)^2 / (9 + 1)
    torch.testing.assert_close(ess(rows), torch.tensor([6, 1, 3, 1.6], dtype=torch.float64), rtol=1e-7, atol=0)


@pytest.mark.parametrize("streams", ["per row", "per particle"])
def test_systematic_takes_floor_or_ceil(streams):
    log_w = 2 * torch.randn(50, 7, dtype=torch.float64)
    noise = Noise(0, 50) if streams == "per row" else Noise(0, 50).spawn(7)
    expected = 7 * log_w.softmax(1)
    taken = counts(log_w, systematic(log_w, noise))
    assert (taken >= expected.floor()).all()
    assert (taken <= expected.ceil()).all()
    assert (taken.sum(1) == 7).all()


def test_only_rows_of_few_effective_particles_are_resampled():
    """The mean weight of every row stays; a row that keeps its particles keeps its weights."""
    log_w = torch.tensor([[0.0, 0.0, -0.1], [9.0, 0.0, 0.0], [-torch.inf] * 3], dtype=torch.float64)
    pick, after = resampled(log_w, Noise(0, 3), 0.5)
    assert pick.tolist() == [0, 1, 2, 3, 3, 3, 6, 7, 8]
    torch.testing.assert_close(after.logsumexp(1), log_w.logsumexp(1))
    assert torch.equal(after[[0, 2]], log_w[[0, 2]])
    assert torch.equal(after[1], after[1, :1].expand(3))
    alone = resampled(log_w[1:2], Noise(0, [1]), 0.5)
    assert torch.equal(alone[0] + 3, pick[3:6])


def test_anneal_hits_the_target_size():
    generator = torch.Generator().manual_seed(0)
    log_w = 0.1 * torch.randn(5, 16, generator=generator, dtype=torch.float64)
    likelihood = 20 * torch.randn(5, 16, generator=generator, dtype=torch.float64)
    likelihood[4] *= 1e-3  # can be taken whole
    spent = torch.tensor([0, 0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    stop = anneal(log_w, likelihood, spent, 0.5)
    size = ess(log_w + (stop - spent)[:, None] * likelihood)
    torch.testing.assert_close(size[:4], torch.full((4,), 8.0).double(), atol=1e-6, rtol=0)
    assert (stop[:4] > spent[:4]).all()
    assert stop[4] == 1
    capped = anneal(log_w, likelihood, spent, 0.5, 0.6)
    torch.testing.assert_close(capped, stop.clamp(max=0.6).maximum(spent))  # what is spent is not given back


RESAMPLERS = pytest.mark.parametrize("resample", [systematic, stratified, residual])


@RESAMPLERS
def test_every_resampler_is_unbiased(resample):
    w = torch.tensor([0.05, 0.3, 0.001, 0.249, 0.4], dtype=torch.float64)
    n = 4000
    log_w = w.log().expand(n, -1) + 5
    taken = counts(log_w, resample(log_w, Noise(1, n * 5)))
    assert (taken.sum(1) == 5).all()
    mean, error = taken.double().mean(0), taken.double().std(0) / n**0.5
    assert ((mean - 5 * w).abs() < 4 * error + 1e-9).all()


def test_stratified_and_residual_counts():
    generator = torch.Generator().manual_seed(0)
    log_w = 2 * torch.randn(50, 7, generator=generator, dtype=torch.float64)
    expected = 7 * log_w.softmax(1)
    assert (counts(log_w, residual(log_w, Noise(0, 350))) >= expected.floor()).all()
    taken = counts(log_w, stratified(log_w, Noise(0, 350)))
    # pointers in k equal cells: the cumulated counts are off by less than 1
    assert ((taken.cumsum(1) - expected.cumsum(1)).abs() <= 1 + 1e-9).all()


def test_resamplers_differ_in_what_they_add():
    """Variance of a resampled mean: drawn independently, then residual, then the others."""
    n, k = 3000, 8
    generator = torch.Generator().manual_seed(0)
    log_w, value = torch.randn(2, k, generator=generator, dtype=torch.float64)
    value, many = value.sort()[0], log_w.expand(n, -1)
    spread = {
        f.__name__: float(value[f(many, Noise(2, n * k)) % k].view(n, k).mean(1).var())
        for f in (systematic, stratified, residual)
    }
    w = log_w.softmax(0)
    independent = float((w * (value - (w * value).sum()).square()).sum() / k)
    print(spread, independent)
    # of systematic and stratified, which is better depends on the order
    assert max(spread["systematic"], spread["stratified"]) < spread["residual"] < independent


@RESAMPLERS
def test_extreme_weights(resample):
    log_w = torch.tensor(
        [[-torch.inf, 0.0, -torch.inf], [0.0, 0.0, 0.0], [1e4, -1e4, -torch.inf], [-1e4, -1e4, -2e4]],
        dtype=torch.float64,
    )
    for seed in range(20):
        picks = resample(log_w, Noise(seed, 12)).tolist()
        assert picks[:3] == [1, 1, 1]
        assert sorted(picks[3:6]) == [3, 4, 5]
        assert picks[6:9] == [6, 6, 6]
        assert set(picks[9:]) <= {9, 10}


@RESAMPLERS
def test_a_row_does_not_see_its_neighbours(resample):
    log_w, streams = torch.randn(3, 4), [(row, particle) for row in "abc" for particle in range(4)]
    together = resample(log_w, Noise(0, streams))
    alone = resample(log_w[1:2], Noise(0, streams[4:8]))
    assert torch.equal(together[4:8] - 4, alone)


@pytest.mark.parametrize("resample", [stratified, residual])
def test_they_need_a_stream_per_particle(resample):
    with pytest.raises(ValueError, match=r"noise\.spawn\(4\)"):
        resample(torch.zeros(3, 4), Noise(0, 3))


def test_categorical_follows_the_weights():
    w = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    pick = categorical(w.log().expand(6000, -1), Noise(0, 6000))
    assert torch.equal(pick // 3, torch.arange(6000))
    share = torch.bincount(pick % 3, minlength=3) / 6000
    torch.testing.assert_close(share.double(), w, atol=4 * 0.5 / 6000**0.5, rtol=0)


def test_the_best_of_each_row():
    value = torch.tensor([[0.0, 3.0, 1.0], [-torch.inf, -2.0, -1.0]])
    assert best(value).tolist() == [1, 5]
    assert torch.equal(value.flatten()[best(value)], value.amax(1))


def test_particles_must_fit_a_batch():
    assert [prompts(rows, k, "m") for rows, k in ((6, 3), (6, 1), (0, 2))] == [2, 6, 0]
    for k in (0, 4, -1):
        with pytest.raises(ValueError, match=f"m: expected a batch that is a multiple of particles = {k}, got 6 rows"):
            prompts(6, k, "m")


def test_shares():
    times = [torch.tensor(t, dtype=torch.float64) for t in (0.0, 0.4, 0.9)]
    assert [share("off")(t) for t in times] == [1, 1, 1]
    assert [share("das")(t) for t in times] == pytest.approx([0, 1.008**40 - 1, 1])
    assert [share("adaptive")(t) for t in times] == pytest.approx([0, 0.16 / 0.52, 0.81 / 0.82])
    sines = [math.sin(math.pi / 2 * t) ** 2 for t in (0.0, 0.4, 0.9)]
    assert [share("adaptive", trig)(t) for t in times] == pytest.approx(sines)
    assert [share(lambda t: float(t) ** 2)(t) for t in times] == pytest.approx([0, 0.16, 0.81])


def test_log_mean():
    log_w = torch.tensor([[0.0, 1.0, 3.0], [-torch.inf, 2.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(log_mean(log_w), log_w.exp().mean(1).log())
