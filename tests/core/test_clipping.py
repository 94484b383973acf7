"""What a file cut off at black and white comes back in the mean, and nothing else is touched."""

import pytest
import torch

from flowhelm.clipping import moments, of_mean, unclipped

STD = 0.25


def noisy(level, seed=0, shape=(1, 3, 128, 128)):
    """A picture of one colour with noise, and the same as a file holds it."""
    whole = level + STD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return whole, whole.clamp(-1, 1)


@pytest.mark.parametrize("level", [-1.0, -0.85, 0.9, 1.0])
def test_values_that_were_cut_off_come_back_in_the_mean(level):
    """The bias of the clipped picture, 0.4 std at black and white, is gone to a tenth; what was not cut off is as it came."""
    whole, held = noisy(level)
    cut = held.abs() == 1
    found = unclipped(held, STD)
    bias = float((held - whole).mean())
    assert abs(bias) > 0.05 * STD
    assert abs(float((found - whole).mean())) < 0.1 * abs(bias)
    assert float(found[cut].mean()) == pytest.approx(float(whole[cut].mean()), abs=0.08 * STD)
    assert torch.equal(found[~cut], held[~cut])


def test_a_value_is_the_mean_of_a_normal_variable_that_lies_beyond():
    """Among neighbours of one value v, m^-1(v) is known: there E[x + n | x + n <= -1] by numerical integration."""
    x = torch.tensor(-0.9, dtype=torch.float64)
    v = moments(x, STD)[0]
    picture = torch.full((1, 1, 33, 33), float(v))
    picture[..., 16, 16] = -1.0
    window = torch.exp(-torch.arange(-3.0, 4.0).square() / 2)
    share = float((window[3] / window.sum()) ** 2)  # of the value itself among its neighbours
    mean = (1 - share) * v - share
    x = of_mean(mean[None], STD)[0]
    grid = torch.linspace(-5, -1, 400_001, dtype=torch.float64)
    density = torch.exp(-(((grid - x) / STD) ** 2) / 2)
    expected = float((grid * density).sum() / density.sum())
    assert float(unclipped(picture, STD)[..., 16, 16]) == pytest.approx(expected, abs=1e-4)


def test_white_is_black_the_other_way_round():
    _, held = noisy(-0.95)
    torch.testing.assert_close(unclipped(-held, STD), -unclipped(held, STD), rtol=0, atol=1e-6)


def test_the_mean_of_what_is_clipped_tells_where_it_was():
    x = torch.linspace(-1.3, 1.3, 27, dtype=torch.float64)
    mean, variance = moments(x, STD)
    found, left = of_mean(mean, STD)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(left, variance, rtol=0, atol=1e-5)


def test_a_picture_that_is_black_itself_or_was_not_cut_off_stays():
    """Noise is as often up as down: where nothing lies above black, there is none. A measurement that goes beyond was not cut off."""
    black = torch.full((1, 3, 32, 32), -1.0)
    assert torch.equal(unclipped(black, STD), black)
    for whole in (noisy(-0.9)[0], 0.9 * noisy(0.0)[1]):
        assert unclipped(whole, STD) is whole
    tiny = torch.ones(1, 3, 3, 40)
    assert unclipped(tiny, STD) is tiny


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_noise_must_be_some(std):
    with pytest.raises(ValueError, match="above 0"):
        unclipped(torch.zeros(1, 1, 8, 8), std)
