"""The U-Net of torchcfm's CIFAR-10 flows (Tong et al. 2024, arXiv:2302.00482; github.com/atong01/conditional-flow-matching).

The network is guided-diffusion's (`adm`), trained to be a velocity from noise (t = 0) to pictures in [-1, 1] (t = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from . import adm
from .adm import Config, called, convention, network, table

LAYOUT = "torchcfm's U-Net"
ENTRIES = ("ema_model", "net_model")


def config(
    weights: Mapping[str, Tensor],
    size: int = 32,
    heads: int | None = None,
    head_width: int | None = None,
    order: Literal["head", "part"] = "head",
) -> Config:
    """As `adm.config`; the weights that are averaged over the training are taken."""
    return adm.config(weights, size, heads, head_width, order, schedule="", layout=LAYOUT)


__all__ = ["ENTRIES", "LAYOUT", "Config", "called", "config", "convention", "network", "table"]
