"""Rate and distortion: how a compressor is trained. Balle et al. 2018, arXiv:1802.01436, eq. 9, in the units of Minnen et al. 2018.

    z, h  <- analysis(clean) + uniform noise of a unit bin
    bits  <- -log2 p(z | h) - log2 p(h)
    loss  = bits per pixel + price (255 / 2)^2 |decode(z) - clean|^2,   pictures in [-1, 1]

The noise stands for rounding: its density is the probability of a bin.

Needs   clean pictures; a network that is a `codec.Compressive`
Cost    1 evaluation, 1 backward
Paper   Here the decoder sees the noisy latents, too, as in the paper (others round for it); price .0035 to .18 there, the larger the
        longer the files.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..codec import Latents
from ..flow import NetFlow
from .data import Batch

if TYPE_CHECKING:
    from ..codec import Compressive


def rate_distortion(flow: NetFlow, batch: Batch, generator: torch.Generator, *, price: float) -> Tensor:
    """The loss of every row `(b,)`, in bits per pixel. Balle et al. 2018, arXiv:1802.01436.

    Args:
        price: bits per pixel that one 8-bit level of squared error is worth.
    """
    codec, clean = cast("Compressive", flow.net), batch.clean
    noisy = Latents(*(each.float() + _uniform(each, generator) for each in codec.analyse(clean)))
    error = (codec.decode(noisy.latent).float() - clean).square().flatten(1).mean(1)
    pixels = clean.shape[-2] * clean.shape[-1]
    return -codec.log_prior(noisy) / (math.log(2) * pixels) + price * 127.5**2 * error


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device) - 0.5
