"""Training: one loop, `fit`, and losses that are functions: `loss(flow, batch, generator) -> (b,)`."""

from . import times
from .coupling import optimal_transport, sinkhorn
from .data import Batch, Data, seeded, shuffled
from .fit import Alone, Loss, Trained, fit, scheduled
from .flow_matching import Coupling, Source, dropped, flow_matching, normal
from .interpolant import denoiser_loss, velocity_loss
from .latent import Concatenated, cached, masked, semantic
from .pmrf import pmrf, rectified, regression
from .rarity import quantiles, rarity, rarity_loss
from .rate_distortion import rate_distortion
from .source import NormAligned, norm_ratio
from .tokens import codebook, filler_loss, tokenizer_loss

__all__ = [
    "Alone",
    "Batch",
    "Concatenated",
    "Coupling",
    "Data",
    "Loss",
    "NormAligned",
    "Source",
    "Trained",
    "cached",
    "codebook",
    "denoiser_loss",
    "dropped",
    "filler_loss",
    "fit",
    "flow_matching",
    "masked",
    "norm_ratio",
    "normal",
    "optimal_transport",
    "pmrf",
    "quantiles",
    "rarity",
    "rarity_loss",
    "rate_distortion",
    "rectified",
    "regression",
    "scheduled",
    "seeded",
    "semantic",
    "shuffled",
    "sinkhorn",
    "times",
    "tokenizer_loss",
    "velocity_loss",
]
