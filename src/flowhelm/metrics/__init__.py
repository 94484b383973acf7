"""How good a restored picture is, one number per picture. Pictures are `(b, c, h, w)` in [-1, 1]."""

from .picture import psnr, ssim
from .residual import residual_ratio

__all__ = ["psnr", "residual_ratio", "ssim"]
