"""How good pictures are: restored ones, one number each, `(b, c, h, w)` in [-1, 1]; and sets of them, by their features."""

from .frechet import frechet, frechet_features
from .picture import psnr, ssim
from .residual import residual_ratio

__all__ = ["frechet", "frechet_features", "psnr", "residual_ratio", "ssim"]
