"""Rewards: picture `(b, c, h, w)` in [-1, 1] -> `(b,)`, higher is better, one per row. Any callable of that shape is one.

A `Measurement` is one, too (its log-likelihood): `Measurement(grey, operators.colorize(shape), std)` constrains the luminance.
One that has no gradient says so by its attribute `differentiable`; one that is told something per row has `rows(index, total)`.
"""

from .aesthetic import Aesthetic, aesthetic
from .classifier import Classified, Classifier, classified
from .clip import Clip, ClipScore, clip, clip_score, hps_score, pick_score
from .combined import Combined, Report, each
from .compressibility import Compressibility
from .image_reward import ImageReward, image_reward
from .palette import Palette
from .pixels import brightness, colourfulness
from .region import Region
from .remote import Remote, remote
from .rows import differentiable, rows_of
from .style import Style
from .vision import Vision, vision
from .vqa import Asked, vqa_score
from .wrapped import chunked, counted, on

ALL = (
    clip_score, pick_score, hps_score, image_reward, aesthetic, vqa_score,  # of models
    classified, brightness, colourfulness,
    chunked, on, counted, remote,
)  # fmt: skip

__all__ = [
    "ALL",
    "Aesthetic",
    "Asked",
    "Classified",
    "Classifier",
    "Clip",
    "ClipScore",
    "Combined",
    "Compressibility",
    "ImageReward",
    "Palette",
    "Region",
    "Remote",
    "Report",
    "Style",
    "Vision",
    "aesthetic",
    "brightness",
    "chunked",
    "classified",
    "clip",
    "clip_score",
    "colourfulness",
    "counted",
    "differentiable",
    "each",
    "hps_score",
    "image_reward",
    "on",
    "pick_score",
    "remote",
    "rows_of",
    "vision",
    "vqa_score",
]
