"""Unmasking: draws tokens from a prior over them. Sahoo et al. 2024 (MDLM), arXiv:2406.07524.

    drawn ~ the network's law of each masked place
    x     <- drawn at some of the masked places:  each by chance (t - s) / (1 - s), or so many that the share t of all is unmasked

Needs   a prior over tokens
Cost    1 evaluation per step
Paper   As there for `order` chance. random unmasks the mean of that number, at random: with as many steps as places one at a time,
        which draws the network's law exactly if its conditionals are those of one law. confidence is MaskGIT's order (Chang et al.
        2022, arXiv:2202.04200), whose temperature is 4.5 for the pictures of that paper: few steps look better, and the law is
        narrower than the prior's.

Example

    from flowhelm import Noise, load, run, sample
    prior, noise = load("fashion-tokens"), Noise(0, rows=1)
    tokens = run(sample.unmasking(prior, prior.source(noise), prior.times(16), noise=noise)).x
    picture = prior.decode(tokens)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import NonNegative, checked
from ..masked import Masked, Order, unmask
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def unmasking(
    flow: Masked, x: Tensor, times: Tensor, *, order: Order = "random", temperature: NonNegative = 4.5, noise: Noise
) -> Iterator[Step]:
    """Unmasking: draws tokens from a prior over them. Sahoo et al. 2024 (MDLM), arXiv:2406.07524.

    Args:
        x: tokens `(b, *shape)` at times[0]; times: increasing, the share of places that are unmasked.
        order: which places are unmasked: chance, random or confidence.
        temperature: of the order by confidence: how much chance is in it, less and less.

    Yields one step per time; `clean` is what was drawn for every place, info is empty.
    """
    total = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        x, drawn = unmask(flow, x, s, t, noise, order=order, temperature=temperature)
        yield Step(i, total, t, x, drawn, {})
