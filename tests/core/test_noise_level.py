"""The noise of a picture is found where there is noise, and where clipping took some of it."""

import pytest
import torch

from flowhelm.noise_level import _clipped, noise_level


def scene(seed=0, side=160, grey=False):
    """Smooth colours with edges, from near black to near white."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g) * 1.6 - 0.8
    picture = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    picture[..., : side // 2] *= 0.7
    return picture.mean(1, keepdim=True) if grey else picture


def eight(y):
    return ((y + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("levels", [2, 10, 25])
def test_white_noise_is_found(levels, grey):
    clean = scene(grey=grey)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    found = noise_level(eight(clean + levels / 127.5 * noise).expand(-1, 3, -1, -1)) * 127.5
    assert found == pytest.approx(levels, rel=0.06, abs=0.1)


def test_what_rounding_adds_is_no_noise():
    """Rounding to 256 levels has a variance of a twelfth of a level squared: noise of 0.7 levels would be taken for 0.76."""
    clean = scene() * 0.8
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert noise_level(eight(clean + 0.7 / 127.5 * noise)) * 127.5 == pytest.approx(0.7, abs=0.03)


def test_a_clean_picture_has_no_noise():
    assert noise_level(eight(scene())) < 0.5 / 127.5
    assert noise_level(eight(scene(grey=True))) < 0.5 / 127.5


def test_what_clipping_took_is_given_back():
    """Without the correction half of a picture at the edge of black tells much less than there is."""
    clean = scene() * 0.3 - 0.75
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    y = eight(clean + 40 / 127.5 * noise)
    assert float((y - clean).std()) * 127.5 < 34
    assert noise_level(y, lambda picture, std: _clipped(clean, std)[0]) * 127.5 == pytest.approx(40, rel=0.08)


def test_the_moments_of_clipped_noise_are_those_of_draws():
    x, std = torch.tensor([-1.2, -0.9, 0.0, 0.8]), 0.4
    draws = (x + std * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    mean, variance = _clipped(x, std)
    torch.testing.assert_close(mean, draws.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(variance, draws.var(0), atol=2e-3, rtol=0)
