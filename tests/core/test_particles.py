import pytest
import torch

from flowhelm.particles import anneal, ess, resampled, systematic
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


def test_systematic_is_unbiased():
    w = torch.tensor([0.05, 0.3, 0.001, 0.249, 0.4], dtype=torch.float64)
    log_w = w.log().expand(4000, -1) + 5
    mean = counts(log_w, systematic(log_w, Noise(1, 4000))).double().mean(0)
    torch.testing.assert_close(mean, 5 * w, atol=4 * 0.5 / 4000**0.5, rtol=0)


def test_systematic_drops_weight_0_and_keeps_equal_weights():
    log_w = torch.tensor([[-torch.inf, 0.0, -torch.inf], [0.0, 0.0, 0.0]])
    for seed in range(20):
        assert systematic(log_w, Noise(seed, 2)).tolist() == [1, 1, 1, 3, 4, 5]


def test_a_row_is_resampled_as_if_it_were_alone():
    log_w = torch.randn(3, 4)
    picks = systematic(log_w, Noise(0, ["a", "b", "c"]))
    alone = systematic(log_w[1:2], Noise(0, ["b"]))
    assert torch.equal(picks[4:8] - 4, alone)


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
