"""Stein's share of a denoised picture: all of it where the prior is right, the best linear part where it is wrong."""

import pytest
import torch

from flowhelm import Noise, Pixels, begin, grids, operators, restore, risk, run, simulate
from flowhelm.path import at, linear, trig


class White(Pixels):
    """The exact flow of pixels that are independent N(0, std^2)."""

    def __init__(self, std, side=96, path=linear):
        self.std, self.shape, self.path, self.calls = std, (3, side, side), path, 0

    def velocity(self, x, t):
        self.calls += 1
        c = at(self.path, t, x)
        variance = c.alpha**2 * self.std**2 + c.sigma**2
        return (c.alpha * c.d_alpha * self.std**2 + c.sigma * c.d_sigma) / variance * x


def noisy(std, r, side=96, rows=2):
    draw = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, rows, 3, side, side, generator=draw, dtype=torch.float64)
    return std * clean + r * noise


@pytest.mark.parametrize("path", [linear, trig])
@pytest.mark.parametrize("r", [0.05, 0.4])
def test_a_prior_that_is_right_is_believed(path, r):
    """Tweedie: what the posterior mean takes out has the power r^2 (1 - divergence), so nothing is put back."""
    flow, t = White(0.3, path=path), grids.levels(1, path, r, r)[0]
    y = noisy(0.3, r)
    clean = flow.ends(path(t).alpha * y, t).clean
    back = risk.trusted(flow, y, clean, t) - clean
    assert (back == 0).double().mean() > 0.98  # a corner has a quarter of a window
    assert back.abs().max() < 0.1 * r


def test_noise_that_is_a_little_stronger_costs_nothing():
    """5 % more has (s^2 + 1.1 r^2) / (s^2 + r^2) times the power that is expected to be taken out: within the slack."""
    flow, r = White(0.3), 0.2
    t = grids.levels(1, linear, r, r)[0]
    y = noisy(0.3, 1.05 * r)
    clean = flow.ends(linear(t).alpha * y, t).clean
    assert (risk.trusted(flow, y, clean, t) == clean).double().mean() > 0.9


@pytest.mark.parametrize("true", [0.2, 0.5])
def test_of_a_prior_that_is_too_smooth_the_best_part_is_kept(true):
    """y + a (D - y) is linear in y: the best a leads to the gain of the true law, whatever the prior's."""
    flow, r = White(0.1), 0.2
    t = grids.levels(1, linear, r, r)[0]
    y = noisy(true, r)
    clean = flow.ends(linear(t).alpha * y, t).clean
    found = risk.trusted(flow, y, clean, t)
    share = ((found - y) * (clean - y)).sum() / (clean - y).square().sum()
    best = (1 - true**2 / (true**2 + r**2)) / (1 - 0.1**2 / (0.1**2 + r**2))
    assert float(share) == pytest.approx(risk.SLACK * best, rel=0.03)


def test_it_costs_one_evaluation_and_rows_stay_apart():
    flow, r = White(0.1, 20), 0.2
    t = grids.levels(1, linear, r, r)[0]
    y = noisy(0.5, r, 20, 3)
    clean = flow.ends(linear(t).alpha * y, t).clean
    flow.calls = 0
    found = risk.trusted(flow, y, clean, t)
    assert flow.calls == 1
    torch.testing.assert_close(risk.trusted(flow, y[1:2], clean[1:2], t), found[1:2], atol=1e-12, rtol=0)
    assert ((found - y) * (clean - y) >= 0).all()  # between the two


def test_of_a_mean_of_estimates_the_divergence_is_that_of_one():
    flow, r = White(0.1), 0.2
    t = grids.levels(1, linear, r, r)[0]
    y = noisy(0.5, r)
    one = flow.ends(linear(t).alpha * y, t).clean
    mean = one + 0.02 * torch.randn(one.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gain = 0.1**2 / (0.1**2 + r**2)  # of the prior, which is its divergence
    share = (risk.SLACK * (1 - gain) * r**2 / risk._around((y - mean).square())).clamp(max=1)
    found = risk.trusted(flow, y, mean, t, one)
    torch.testing.assert_close(found, torch.lerp(y, mean, share.expand_as(y)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("side", [1, 4, 40])
def test_means_of_windows_keep_what_is_even(side):
    torch.testing.assert_close(risk._around(torch.full((2, 3, side, 7), 0.3)), torch.full((2, 1, side, 7), 0.3))
    if side == 40:  # far from the border the mean of a window
        values = torch.randn(1, 3, 40, 40, dtype=torch.float64)
        torch.testing.assert_close(risk._around(values)[0, 0, 20, 19], values[..., 4:37, 3:36].mean())


def test_hqs_keeps_its_last_estimate_as_far_as_that():
    flow = White(0.1, 40)
    y = simulate(operators.denoise(flow.shape), noisy(0.5, 0.0, 40).float(), 0.2, Noise(0, 2))
    plain = run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 1))).x
    sure = run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 1), sure=True)).x
    t = begin(restore.hqs, flow, y, 1)[1][0]
    torch.testing.assert_close(sure, risk.trusted(flow, y.y, plain, t), atol=1e-6, rtol=0)
    turned = run(restore.hqs(flow, y, *begin(restore.hqs, flow, y, 1), sure=True, looks="turned", ensemble=True)).x
    torch.testing.assert_close(turned, sure, atol=1e-5, rtol=0)  # a prior to which all looks are alike
    with pytest.raises(ValueError, match="sure is for pictures"):
        next(restore.hqs(flow, y, y.y.flatten(1), begin(restore.hqs, flow, y, 1)[1], sure=True))
