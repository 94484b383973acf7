"""Densities of the training time against the formulas of arXiv:2403.03206, whose time runs the other way."""

import math

import pytest
import torch

from flowhelm import grids
from flowhelm.train import times

DENSITIES = {
    "uniform": times.uniform,
    "logit_normal(0, 1)": times.logit_normal(),
    "logit_normal(-0.7, 0.6)": times.logit_normal(-0.7, 0.6),
    "mode(1.29)": times.mode(),
    "mode(1.75)": times.mode(1.75),
    "mode(-1)": times.mode(-1.0),
    "cosmap": times.cosmap,
    "shifted(uniform, 3)": times.shifted(times.uniform, 3.0),
    "shifted(logit_normal(0.5, 0.8), 2)": times.shifted(times.logit_normal(0.5, 0.8), 2.0),
}


def logit_normal_law(m, s):  # eq. 19, in the paper's time
    def law(time):
        logit = torch.log(time / (1 - time))
        return torch.exp(-((logit - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * time * (1 - time))

    return law


def shifted_law(law, factor):  # eq. 23, by the change of variables
    def moved(time):
        before = time / (factor - (factor - 1) * time)
        return law(before) * factor / (factor - (factor - 1) * time) ** 2

    return moved


# the paper's densities in the paper's time (mean of the opposite sign): time = 1 - t
LAWS = {
    "uniform": torch.ones_like,
    "logit_normal(0, 1)": logit_normal_law(0.0, 1.0),
    "logit_normal(-0.7, 0.6)": logit_normal_law(0.7, 0.6),
    "cosmap": lambda time: 2 / (math.pi - 2 * math.pi * time + 2 * math.pi * time**2),  # eq. 21
    "shifted(uniform, 3)": shifted_law(torch.ones_like, 3.0),
    "shifted(logit_normal(0.5, 0.8), 2)": shifted_law(logit_normal_law(-0.5, 0.8), 2.0),
}


def mode_map(scale):  # eq. 20
    return lambda u: 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


def levels(count=999):
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def cdf(name, t):
    """P(T <= t), from the paper's formulas alone."""
    if name.startswith("mode"):  # 1 - t <= f(u), f falling: bisect the paper's map
        f = mode_map(float(name[5:-1]))
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(80):
            middle = (low + high) / 2
            below = f(middle) < 1 - t
            low, high = torch.where(below, low, middle), torch.where(below, middle, high)
        return low
    mesh = torch.sigmoid(torch.linspace(-30, 30, 300_001, dtype=torch.float64))  # fine at both ends
    law = LAWS[name](1 - mesh) * mesh * (1 - mesh)  # d t / d logit t
    law[[0, -1]] = 0
    mass = torch.cat([law.new_zeros(1), torch.cumulative_trapezoid(law, dx=2e-4)])
    spot = torch.log(t / (1 - t)).clamp(-29.99, 29.99)
    index = ((spot + 30) / 2e-4).floor().long()
    share = (spot + 30) / 2e-4 - index
    return mass[index] + share * (mass[index + 1] - mass[index])


@pytest.mark.parametrize("name", LAWS)
def test_quantiles_have_the_published_density(name):
    u = levels().requires_grad_()
    t = DENSITIES[name](u)
    (slope,) = torch.autograd.grad(t.sum(), u)  # dt / du = 1 / density
    t = t.detach()
    torch.testing.assert_close(LAWS[name](1 - t) * slope, torch.ones_like(t), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", DENSITIES)
def test_quantiles_rise_from_0_to_1_and_invert_the_distribution(name):
    t = DENSITIES[name](levels())
    assert (t.diff() > 0).all()
    torch.testing.assert_close(cdf(name, t), levels(), atol=2e-6, rtol=0)
    ends = DENSITIES[name](torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-15, rtol=0)
    fine = DENSITIES[name](torch.linspace(1e-6, 1 - 1e-6, 100_001))  # float32 keeps the range
    assert fine.min() >= 0
    assert fine.max() <= 1


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.29, 1.75])
def test_mode_is_the_papers_map_seen_from_clean(scale):
    u = levels()
    torch.testing.assert_close(1 - times.mode(scale)(u), mode_map(scale)(u), atol=1e-14, rtol=0)


def test_cosmap_gives_the_signal_to_noise_ratio_of_the_cosine_path():
    u = levels()
    t = times.cosmap(u)
    torch.testing.assert_close(t / (1 - t), torch.tan(math.pi / 2 * u), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "middle", "noisy"),
    [
        ("uniform", 0.200, 0.050),
        ("logit_normal(0, 1)", 0.315, 0.0016),
        ("mode(1.29)", 0.459, 0.0227),
        ("mode(1.75)", 0.568, 0.0188),
        ("mode(-1)", 0.128, 0.144),
        ("logit_normal(-0.7, 0.6)", 0.2791, 0.00009),  # Phi(1.8425) - Phi(0.4908), Phi(-3.740)
    ],
)
def test_shares_of_the_middle_and_of_the_noisy_end(name, middle, noisy):
    # published values are of a million draws; here one a stratum, beside the analytic shares
    t = times.draw(DENSITIES[name], 200_000, torch.Generator().manual_seed(0))
    drawn = [float(((t > 0.4) & (t < 0.6)).float().mean()), float((t < 0.05).float().mean())]
    low, high, edge = cdf(name, torch.tensor([0.4, 0.6, 0.05], dtype=torch.float64)).tolist()
    print(f"{name:26} P(0.4<t<0.6) {drawn[0]:.4f} ({high - low:.4f})   P(t<0.05) {drawn[1]:.5f} ({edge:.5f})")
    assert drawn == pytest.approx([high - low, edge], abs=2e-5)
    assert drawn == pytest.approx([middle, noisy], abs=7e-4)


def test_orientation():
    u = levels()
    assert times.logit_normal(0.5)(u).mean() > 0.55  # t = 1 is clean: a positive mean favours clean states,
    assert times.shifted(times.uniform, 3.0)(u).mean() < 0.4  # and a shift for a larger picture noisy ones
    m, s = 0.5, 0.8
    t = times.logit_normal(m, s)(u)
    paper = torch.sigmoid(-m + s * torch.special.ndtri(1 - u))  # its sample, by its formula with its m = -mean
    torch.testing.assert_close(1 - t, paper, atol=1e-14, rtol=0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 3.0])
def test_a_shift_translates_the_logit(factor):
    u = levels()
    moved = times.shifted(times.logit_normal(0.3, 0.8), factor)(u)
    torch.testing.assert_close(moved, times.logit_normal(0.3 - math.log(factor), 0.8)(u), atol=1e-14, rtol=0)
    for name, density in DENSITIES.items():
        t, later = density(u), times.shifted(density, factor)(u)
        gap = torch.log(later / (1 - later)) - torch.log(t / (1 - t))
        torch.testing.assert_close(gap, torch.full_like(u, -math.log(factor)), atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_training_and_sampling_shift_alike(factor):
    grid = times.shifted(times.uniform, factor)(grids.uniform(40))
    torch.testing.assert_close(grid, grids.shifted(40, factor), atol=1e-14, rtol=0)
    logit = times.logit_normal(0.4, 1.3)(grids.uniform(40))
    torch.testing.assert_close(logit, grids.logit(40, 0.4, 1.3), atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", DENSITIES)
def test_draw_has_one_time_in_every_stratum(name):
    count = 500
    t = times.draw(DENSITIES[name], count, torch.Generator().manual_seed(3))
    assert t.shape == (count,)
    level = cdf(name, t.double()).sort().values * count
    first = torch.arange(count)
    assert (level > first - 0.01).all()  # float32 and the table of the distribution
    assert (level < first + 1.01).all()


def test_each_time_of_a_draw_has_the_density_whatever_its_place():
    # the first of every draw of 8, 6000 times: Kolmogorov's 0.1% bound; and no two neighbours in one stratum
    generator = torch.Generator().manual_seed(0)
    u = torch.stack([times.draw(times.uniform, 8, generator) for _ in range(6000)])
    assert u.unique().numel() > 47_000
    for place in (0, 5):
        sorted_ = u[:, place].sort().values.double()
        gap = float((sorted_ - (torch.arange(6000) + 0.5) / 6000).abs().max())
        print(f"place {place}: Kolmogorov distance {gap:.4f}, bound {1.95 / math.sqrt(6000):.4f}")
        assert gap < 1.95 / math.sqrt(6000)
    counts = torch.bincount((u * 8 % 1 * 10).long().flatten(), minlength=10)  # where in its stratum
    assert float(((counts - 4800) ** 2 / 4800).sum()) < 27.9  # chi-square, 9 degrees, 0.1%
    # two rows never share one of the k strata: their correlation is -(1 - 1 / k^2) / (k - 1)
    assert float(torch.corrcoef(u[:, :2].T)[0, 1]) == pytest.approx(-(1 - 1 / 64) / 7, abs=0.045)


def test_errors():
    for scale in (-1.01, 1.76):
        with pytest.raises(ValueError, match=r"-1 <= scale <= 1\.7519"):
            times.mode(scale)
    with pytest.raises(ValueError, match="std > 0"):
        times.logit_normal(0, 0)
    with pytest.raises(ValueError, match="factor > 0"):
        times.shifted(times.uniform, 0)
