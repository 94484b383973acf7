"""The blur of a picture, by its spectrum."""

import math

import pytest
import torch

from flowhelm.blur_kind import FALL, blur_kind
from flowhelm.operators.blur import KERNELS, disc, kernel_of, line


def moments(kernel):
    """Mean (column, row) and covariance of a kernel as a distribution over pixels, x to the right and y upwards."""
    kernel = kernel.double()
    rows, columns = (torch.arange(float(side), dtype=torch.float64) - side // 2 for side in kernel.shape)
    x, y = columns.expand_as(kernel), -rows[:, None].expand_as(kernel)
    mean = torch.stack([(kernel * x).sum(), (kernel * y).sum()])
    xy = torch.stack([x - mean[0], y - mean[1]])
    return mean, torch.einsum("ihw,jhw,hw->ij", xy, xy, kernel)


def scene(seed=0, side=192, fall=FALL):
    """A picture whose power falls with the frequency, as that of photographs does."""
    white = torch.randn(side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = torch.hypot(torch.fft.fftfreq(side)[:, None].double(), torch.fft.rfftfreq(side).double()).clamp(
        min=1 / side
    )
    field = torch.fft.irfft2(torch.fft.rfft2(white) * radius ** (-fall / 2), s=(side, side))
    return 0.3 * (field / field.std())


def photo(field, kernel=None, std=0.01, channels=3):
    if kernel is not None:
        whole = torch.fft.rfft2(kernel.double(), s=field.shape)
        field = torch.fft.irfft2(torch.fft.rfft2(field) * whole, s=field.shape)
    picture = field.expand(1, 3, -1, -1)
    noise = torch.randn(1, channels, *field.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return picture + std * noise


@pytest.mark.parametrize("sigma", [0.75, 1.3, 2.5])
def test_a_disc_and_a_line_have_the_spread_that_is_asked_for(sigma):
    mean, spread = moments(disc(sigma))
    assert float(disc(sigma).sum()) == pytest.approx(1, abs=1e-6)
    assert mean.abs().max() < 1e-6
    # a pixel that is partly covered counts as a whole in its middle: the spread of a pixel less
    assert spread.diagonal().tolist() == pytest.approx([sigma**2] * 2, abs=0.12)
    assert abs(spread[0, 1]) < 1e-6
    for degrees in (0.0, 30.0, 90.0, 135.0):
        mean, spread = moments(line(sigma, degrees))
        along = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=torch.float64)
        assert mean.abs().max() < 1e-6
        assert float(along @ spread @ along) == pytest.approx(sigma**2, abs=0.26)
        across = torch.stack([-along[1], along[0]])
        assert float(across @ spread @ across) < 0.26  # what sharing among four pixels adds


def test_a_line_turns():
    assert torch.allclose(line(1.7, 90), line(1.7, 0).T, atol=1e-6)
    assert torch.allclose(line(1.7, 40), line(1.7, 220), atol=1e-6)
    assert torch.allclose(line(1.7, 140), line(1.7, 40).flip(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "sigma", "angle"),
    [("gaussian", 1.0, 0), ("gaussian", 2.2, 0), ("disc", 1.2, 0), ("disc", 2.0, 0), ("line", 1.5, 30), ("line", 3.0, 115)],
)  # fmt: skip
def test_the_blur_of_a_scene_is_found(kernel, sigma, angle):
    found = blur_kind(photo(scene(), kernel_of(sigma, kernel, angle)), 0.01, KERNELS, soft=0)
    assert found.kernel == kernel
    assert found.sigma == pytest.approx(sigma, rel=0.05)
    if kernel == "line":
        assert found.angle == pytest.approx(angle, abs=3)
    assert found.evidence > 100


def test_no_blur_has_no_evidence_and_softness_is_taken_off():
    none = blur_kind(photo(scene()), 0.01, KERNELS, soft=0)
    assert none.evidence < 20 or none.sigma < 0.35
    soft = blur_kind(photo(scene(), kernel_of(math.hypot(1.2, 0.6))), 0.01, {"gaussian": KERNELS["gaussian"]}, soft=0.6)
    assert soft.sigma == pytest.approx(1.2, rel=0.06)


def test_noise_does_not_look_like_sharpness():
    """The more there is, the less evidence; the size stays."""
    found = [blur_kind(photo(scene(3), kernel_of(1.6), std), std, KERNELS, soft=0) for std in (0.01, 0.05)]
    assert [each.sigma for each in found] == [pytest.approx(1.6, rel=0.08)] * 2
    assert found[0].evidence > found[1].evidence


def test_channels_that_are_copies_have_their_noise_once():
    y = photo(scene(1), kernel_of(1.6), 0.03, channels=1)
    three, one = (blur_kind(each, 0.03, KERNELS, soft=0) for each in (y, y[:, :1]))
    assert three.sigma == pytest.approx(one.sigma, rel=1e-3)


def test_what_cannot_be_looked_at():
    assert blur_kind(torch.zeros(1, 3, 20, 400), 0.01, KERNELS) is None
    with pytest.raises(ValueError, match="expected one picture"):
        blur_kind(torch.zeros(3, 64, 64), 0.01, KERNELS)
    flat = blur_kind(torch.zeros(1, 3, 64, 64), 0.01, KERNELS)
    assert math.isfinite(flat.evidence)
