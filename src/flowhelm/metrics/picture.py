"""PSNR and SSIM.

Not deepinv's: its PSNR adds 1e-8 to the relative error and so stops at 80 dB, its SSIM (torchmetrics) averages
over a border filled by reflection, which Wang et al. and scikit-image leave out.
"""

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..shapes import Image, PerSample


def psnr(image: Image, reference: Image) -> PerSample:
    """Peak signal-to-noise ratio of each picture in decibels, 10 log10(2^2 / mean squared error): `(b,)`. flowhelm's own.

    `(b, c, h, w)` in [-1, 1]; the image, not the reference, is clamped to it first. Infinite for equal pictures.
    """
    _same(image, reference)
    error = (image.clamp(-1, 1) - reference).double().flatten(1).square().mean(1)
    return (10 * torch.log10(4 / error)).to(image.dtype)


def ssim(image: Image, reference: Image) -> PerSample:
    """Structural similarity of each picture, 1 for equal ones: `(b,)`. Wang et al. 2004.

    `(b, c, h, w)` in [-1, 1]; the image, not the reference, is clamped to it first. Gaussian window of 11 pixels,
    sigma 1.5, windows wholly inside the picture, K1 = 0.01, K2 = 0.03, data range 2, mean over the channels: as
    skimage's structural_similarity with gaussian_weights=True, use_sample_covariance=False.
    Raises ValueError for pictures under 11 pixels.
    """
    _same(image, reference)
    if min(image.shape[-2:]) < 11:
        raise ValueError(f"ssim: expected at least 11 x 11 pixels, got {image.shape[-2]} x {image.shape[-1]}; use psnr")
    x, y = image.clamp(-1, 1).double(), reference.double()
    window = torch.exp(-((torch.arange(-5, 6, device=x.device, dtype=x.dtype) / 1.5) ** 2) / 2)
    window = window / window.sum()

    def local(v: Tensor) -> Tensor:
        v = v.flatten(0, 1)[:, None]
        v = fn.conv2d(fn.conv2d(v, window.reshape(1, 1, 1, 11)), window.reshape(1, 1, 11, 1))
        return v.reshape(*x.shape[:2], *v.shape[-2:])

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    value = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3)).to(image.dtype)


def _same(image: Image, reference: Image) -> None:
    if image.shape != reference.shape or image.ndim != 4:
        raise ValueError(
            f"metrics: expected two batches (b, c, h, w) of one shape, got {tuple(image.shape)} and "
            f"{tuple(reference.shape)}; crop or repeat one of them"
        )
