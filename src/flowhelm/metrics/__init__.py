"""How good pictures are: restored ones, one number each, `(b, c, h, w)` in [-1, 1]; and sets of them, by their features.

Sets of (weighted) samples of any kind, against a law that is known: `moments`, `mean_error`, `trace_ratio`, `gaussian_w2`, `sliced_w2`.
Many samples of many posteriors, against the truths: `coverage`, `ranks` with `ecdf_test` and `rank_test`, `tarp`; `judge` says in
a word what is wrong.
What the samples of one posterior say together: `posterior_maps`, `quantiles`.
Spots where a sampler ran away: `magnitude_score`.
A few of many samples that show how different they are: `farthest`, `kmeans`, `uniformised`.
"""

from .artefacts import magnitude_score
from .calibration import coverage, ecdf_band, ecdf_test, judge, rank_test, ranks, tarp, uniform_test
from .diversity import euclidean, farthest, kmeans, uniformised
from .features import feature_distance
from .frechet import frechet, frechet_features
from .picture import psnr, ssim
from .posterior import posterior_maps, quantiles
from .residual import residual_ratio
from .samples import gaussian_w2, mean_error, moments, sliced_w2, trace_ratio

__all__ = [
    "coverage",
    "ecdf_band",
    "ecdf_test",
    "euclidean",
    "farthest",
    "feature_distance",
    "frechet",
    "frechet_features",
    "gaussian_w2",
    "judge",
    "kmeans",
    "magnitude_score",
    "mean_error",
    "moments",
    "posterior_maps",
    "psnr",
    "quantiles",
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
