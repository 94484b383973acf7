"""The noise of a picture is found where there is noise, and where clipping took some of it."""

import pytest
import torch

from flowhelm.clipping import moments
from flowhelm.noise_level import noise_level, repetition


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
    assert noise_level(y, lambda picture, std: moments(clean, std)[0]) * 127.5 == pytest.approx(40, rel=0.08)


def test_the_moments_of_clipped_noise_are_those_of_draws():
    x, std = torch.tensor([-1.2, -0.9, 0.0, 0.8]), 0.4
    draws = (x + std * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    mean, variance = moments(x, std)
    torch.testing.assert_close(mean, draws.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(variance, draws.var(0), atol=2e-3, rtol=0)


def textured(amplitude, seed=0, side=160):
    """Grass over most of a smooth picture: fine contrast that differs from place to place, in brightness and a little in colour."""
    g = torch.Generator().manual_seed(seed)
    strength = torch.nn.functional.interpolate(torch.rand(1, 1, 5, 5, generator=g), (side, side), mode="bicubic").clamp(
        min=0.05
    )
    grass = torch.randn(1, 1, side, side, generator=g) * torch.tensor([1.0, 1.1, 0.8]).view(1, 3, 1, 1)
    grass += 0.3 * torch.randn(1, 3, side, side, generator=g)
    return scene(seed) * 0.6 + amplitude / 127.5 * strength * grass


def test_texture_is_not_taken_for_noise():
    """All patches, whole (Chen et al.), say 5.9 levels here."""
    clean = textured(20)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert noise_level(eight(clean + 5 / 127.5 * noise)) * 127.5 == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("grey", [False, True])
def test_noise_that_grows_with_the_light_counts_by_its_mean_square(grey):
    """The flattest patches alone are the darkest, which have the least noise."""
    clean = 0.2 * scene(3, side=256, grey=grey) + torch.linspace(-0.75, 0.75, 256)
    strength = ((clean + 1) / (clean + 1).mean()).sqrt()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    assert noise_level(eight(clean + 8 / 127.5 * strength * noise)) * 127.5 == pytest.approx(8, rel=0.08)


def test_a_frame_does_not_hide_the_noise():
    clean = scene() * 0.8
    noisy = eight(clean + 8 / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)))
    noisy[..., :40, :] = noisy[..., -25:, :] = eight(torch.tensor(0.2))
    assert noise_level(noisy) * 127.5 == pytest.approx(8, rel=0.06)


def test_a_drawing_has_no_noise():
    """Mostly even patches, and sharp lines between them."""
    drawing = torch.full((1, 3, 128, 128), 0.9)
    for at in range(5, 128, 31):
        drawing[..., at, :] = drawing[..., :, at] = -0.9
    assert noise_level(eight(drawing)) == 0


def test_a_photograph_that_is_mostly_black_is_no_drawing():
    clean = scene(1, side=256) * 0.6 - torch.linspace(0, 2.6, 256)
    noisy = eight(clean + 6 / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)))
    assert float((noisy == -1).all(1).float().mean()) > 0.55
    assert noise_level(noisy) * 127.5 == pytest.approx(6, rel=0.08)


def test_patterns_repeat_themselves_and_noise_does_not():
    """White noise of n pixels has autocorrelations of about 1 / sqrt(n); none of the 256 x 256 is beyond five of them. Noise that is
    added to a pattern divides its repetition by 1 + noise / pattern."""
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    stripes = torch.sin(torch.arange(256) * torch.pi / 4).expand(1, 3, 256, 256)
    assert repetition(noise + 3) < 5 / 256
    assert repetition(3 * stripes + 1) == pytest.approx(1, abs=1e-4)
    assert repetition(stripes + noise * 1.5**0.5) == pytest.approx(
        0.5, abs=0.02
    )  # of powers 1/2, and 1.5 / 3 in the mean of the colours
    assert repetition(torch.nn.functional.avg_pool2d(noise, 5, 1)) < 0.1  # alike within five pixels only
    assert repetition(torch.zeros(1, 3, 32, 32)) == repetition(torch.ones(1, 1, 4, 4)) == 0
