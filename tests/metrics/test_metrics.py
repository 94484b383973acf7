import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from flowhelm.metrics import psnr, residual_ratio, ssim


def pair(height=40, width=33, spread=0.3):
    draw = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 3, height, width, generator=draw) * 2 - 1
    noise = torch.randn(3, 3, height, width, generator=draw)
    return reference + spread * noise * torch.tensor([0.1, 0.5, 1.0]).reshape(3, 1, 1, 1), reference


def test_psnr_is_the_formula():
    image, reference = pair()
    expected = [
        peak_signal_noise_ratio(r.double().numpy(), i.clamp(-1, 1).double().numpy(), data_range=2)
        for i, r in zip(image, reference, strict=True)
    ]
    assert psnr(image, reference).tolist() == pytest.approx(expected, rel=1e-5)


def test_psnr_of_a_constant_error_has_no_ceiling():
    reference = torch.zeros(3, 1, 8, 8)
    image = reference + torch.tensor([2e-2, 2e-5, 0.0]).reshape(3, 1, 1, 1)
    assert psnr(image, reference).tolist() == pytest.approx([40, 100, float("inf")], rel=1e-5)


def test_ssim_is_that_of_skimage():
    image, reference = pair()
    theirs = {
        "data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0,
    }  # fmt: skip
    pairs = zip(reference.double().numpy(), image.clamp(-1, 1).double().numpy(), strict=True)
    expected = [structural_similarity(r, i, **theirs) for r, i in pairs]
    assert ssim(image, reference).tolist() == pytest.approx(expected, abs=1e-6)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_each_picture_has_its_own_number_and_is_clamped(metric):
    image, reference = pair(12, 14)
    together = metric(image, reference)
    assert together.shape == (3,)
    for i in range(3):
        assert torch.allclose(metric(image[i : i + 1], reference[i : i + 1]), together[i : i + 1], atol=1e-6)
    assert torch.equal(metric(image * 3, reference), metric((image * 3).clamp(-1, 1), reference))
    with pytest.raises(ValueError, match="one shape"):
        metric(image[0], reference[0])


def test_ssim_needs_room_for_a_window():
    with pytest.raises(ValueError, match="11 x 11 pixels, got 10 x 12"):
        ssim(torch.zeros(1, 1, 10, 12), torch.zeros(1, 1, 10, 12))


def test_residual_ratio_is_one_for_noise_alone():
    noise = 0.07 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ratio = residual_ratio(noise * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), 0.07)
    assert ratio.tolist() == pytest.approx([1, 3], rel=0.03)
    assert residual_ratio(torch.full((1, 4), 0.2), 0.1).item() == pytest.approx(2)
    with pytest.raises(ValueError, match="std > 0"):
        residual_ratio(noise, 0.0)
