"""What a file cut off at black and white comes back in the mean, and nothing else is touched."""

import math

import pytest
import torch

from flowhelm.clipping import _above, moments, of_mean, unclipped

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


def test_one_of_both_limits_is_what_moments_say_of_it():
    """max(0, N(u, 1)), in units of the noise, where the other limit is far."""
    u = torch.linspace(-2.5, 4, 27, dtype=torch.float64)
    mean, variance = _above(u)
    both, left = moments(-1 + 0.1 * u, 0.1)
    torch.testing.assert_close(-1 + 0.1 * mean, both, rtol=0, atol=1e-12)
    torch.testing.assert_close(0.01 * variance, left, rtol=0, atol=1e-12)
    assert (mean / variance.sqrt()).diff().min() > 0  # so that it tells u


@pytest.mark.parametrize("weaker", [0.2, 0.5])
def test_noise_that_is_weaker_in_the_shadows_is_seen_to_be(weaker):
    """Held for as strong as the rest, what was cut off would be put far below what it was, and the shadows would come back black."""
    whole = -0.97 + weaker * STD * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    held = whole.clamp(-1, 1)
    cut, found = held == -1, unclipped(held, STD)
    assert float((found - whole)[cut].mean().abs()) < 0.15 * weaker * STD
    assert float((found - whole).mean().abs()) < 0.2 * float((held - whole).mean())


def test_nothing_is_put_further_beyond_than_noise_on_black_itself():
    """std sqrt(2 / pi), the mean of half a normal law: no clean picture is below black, and texture is no stronger noise."""
    _, held = noisy(-1.0)
    texture = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 3 - 2).clamp(-1, 1)
    for picture, std in ((held, STD), (texture, 0.05)):
        assert 0 < float(unclipped(picture, std).abs().max()) - 1 < 1.001 * std * math.sqrt(2 / math.pi)


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
    tiny = torch.ones(1, 3, 8, 40)
    assert unclipped(tiny, STD) is tiny


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_noise_must_be_some(std):
    with pytest.raises(ValueError, match="above 0"):
        unclipped(torch.zeros(1, 1, 8, 8), std)
