import sys

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm import operators
from flowhelm.operators.baseline import bicubic, biharmonic, nearest, wiener

torch.set_num_threads(1)


def spectral_picture(rows, channels, height, width, level, seed=0):
    """Gaussian pictures of power level / f^2 (orthonormal), and that power, (h, w), 0 at f = 0."""
    frequency2 = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2
    power = torch.where(frequency2 > 0, level / frequency2, 0.0)
    white = torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real, power


@pytest.mark.parametrize("std", [0.02, 0.2])
def test_wiener_reaches_the_least_possible_error(std):
    """For pictures of the assumed spectrum the filter is optimal, with error mean(1 / (|H|^2/std^2 + 1/S))."""
    height, width = 48, 63
    image, power = spectral_picture(8, 3, height, width, 1e-3)
    operator = operators.deblur((3, height, width), sigma=1.2, border="circular")
    y = operator.A(image)
    y = y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    impulse = torch.zeros(1, 3, height, width)
    impulse[..., 0, 0] = 1
    gain = torch.fft.fft2(operator.A(impulse))[0, 0].abs() ** 2
    least = (power / (1 + gain * power / std**2)).mean()
    error = (wiener(y, operator, std) - image).square().mean()
    assert float(error) == pytest.approx(float(least), rel=0.03)
    assert error < 0.9 * (y - image).square().mean()


@pytest.mark.parametrize("width", [6, 7])
def test_wiener_is_the_formula_over_all_frequencies(width):
    operator = operators.deblur((2, 8, width), sigma=0.8, border="circular")
    y = 0.6 + 0.3 * torch.randn(1, 2, 8, width, generator=torch.Generator().manual_seed(2))
    impulse = torch.zeros(1, 2, 8, width)
    impulse[..., 0, 0] = 1
    transfer, spectrum = torch.fft.fft2(operator.A(impulse)), torch.fft.fft2(y, norm="ortho")
    frequency2 = (torch.fft.fftfreq(8)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2).expand(2, 8, width)
    some = frequency2 > 0
    h2, y2 = transfer[0].abs() ** 2, spectrum[0].abs() ** 2
    level = (y2[some] - 0.1**2).sum() / (h2[some] / frequency2[some]).sum()
    estimate = transfer.conj() * spectrum / (h2 + 0.1**2 * frequency2 / level)
    assert torch.allclose(wiener(y, operator, 0.1), torch.fft.ifft2(estimate, norm="ortho").real, atol=1e-5)


def test_wiener_keeps_the_mean_and_the_rows_apart():
    image, _ = spectral_picture(2, 1, 16, 17, 1e-3)
    operator = operators.deblur((1, 16, 17), border="circular")
    y = operator.A(image + torch.tensor([0.5, -0.2]).reshape(2, 1, 1, 1)) + 0.1 * torch.randn(2, 1, 16, 17)
    out = wiener(y, operator, 0.1)
    assert torch.allclose(out.mean((1, 2, 3)), y.mean((1, 2, 3)), atol=1e-5)
    assert torch.allclose(wiener(y[1:], operator, 0.1), out[1:], atol=1e-6)
    assert torch.allclose(wiener(0 * y + 0.3, operator, 0.1), torch.full_like(y, 0.3), atol=1e-3)


def test_wiener_refuses_what_it_cannot_do():
    y = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match="circular convolution"):
        wiener(y, operators.box((3, 8, 8), top=0, left=0), 0.1)
    with pytest.raises(ValueError, match="circular convolution"):
        wiener(y, operators.superres((3, 8, 8)), 0.1)
    with pytest.raises(ValueError, match="border circular"):
        wiener(y, operators.deblur((3, 24, 24)), 0.1)  # y is 8 x 8
    with pytest.raises(ValueError, match="std > 0"):
        wiener(y, operators.deblur((3, 8, 8), border="circular"), 0.0)


def test_bicubic_is_that_of_pillow():
    y = torch.rand(1, 1, 9, 12)
    expected = Image.fromarray(y[0, 0].numpy()).resize((36, 27), Image.Resampling.BICUBIC)
    assert torch.allclose(bicubic(y, 3)[0, 0], torch.from_numpy(np.array(expected)), atol=1e-5)


def test_nearest_takes_the_nearest_known_pixel():
    draw = torch.Generator().manual_seed(0)
    known = torch.rand(2, 13, 17, generator=draw) < 0.06
    known[1, :, 3:] = False  # whole columns without a known pixel
    known[1, 5, 1] = True
    image = torch.rand(2, 2, 13, 17, generator=draw)
    filled = nearest(image * known, known)
    rows, columns = torch.meshgrid(torch.arange(13), torch.arange(17), indexing="ij")
    for c in range(2):
        places = known[c].nonzero()
        d = (rows[..., None] - places[:, 0]) ** 2 + (columns[..., None] - places[:, 1]) ** 2
        best = d.min(-1, keepdim=True).values
        for b in range(2):
            values = image[b, c][places[:, 0], places[:, 1]]
            fits = (filled[b, c][..., None] == values) & (d == best)  # ties may go either way
            assert fits.any(-1).all()


def test_biharmonic_fills_a_smooth_hole():
    known = torch.ones(16, 18)
    known[6:10, 5:11] = 0
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 18), indexing="ij")
    image = torch.stack([0.5 * x * y, 0.3 * x - 0.4 * y]).repeat(2, 1, 1, 1)
    filled = biharmonic(image * known, known)
    assert torch.equal(filled[..., known > 0], image[..., known > 0])
    assert torch.allclose(filled, image, atol=0.02)
    assert filled.dtype == torch.float32


def test_biharmonic_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        biharmonic(torch.zeros(1, 1, 4, 4), torch.eye(4))


def test_masks_are_checked():
    with pytest.raises(ValueError, match="4 x 4, got"):
        nearest(torch.zeros(1, 1, 4, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match="wholly missing"):
        nearest(torch.zeros(1, 1, 4, 4), torch.zeros(4, 4))
