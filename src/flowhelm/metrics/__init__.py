"""How good pictures are: restored ones, one number each, `(b, c, h, w)` in [-1, 1]; and sets of them, by their features.

Sets of (weighted) samples of any kind, against a law that is known: `moments`, `mean_error`, `trace_ratio`, `gaussian_w2`, `sliced_w2`.
Many samples of many posteriors, against the truths: `coverage`, `ranks` with `rank_test`, `tarp` with `uniform_test`.
A few of many samples that show how different they are: `farthest`, `kmeans`, `uniformised`.
"""

from .calibration import coverage, rank_test, ranks, tarp, uniform_test
from .diversity import euclidean, farthest, kmeans, uniformised
from .frechet import frechet, frechet_features
from .picture import psnr, ssim
from .residual import residual_ratio
from .samples import gaussian_w2, mean_error, moments, sliced_w2, trace_ratio

__all__ = [
    "coverage",
    "euclidean",
    "farthest",
    "frechet",
    "frechet_features",
    "gaussian_w2",
    "kmeans",
    "mean_error",
    "moments",
    "psnr",
    "rank_test",
    "ranks",
    "residual_ratio",
    "sliced_w2",
    "ssim",
    "tarp",
    "trace_ratio",
    "uniform_test",
    "uniformised",
]
