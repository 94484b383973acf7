"""TAG: Taylor-approximated guidance of tokens. Nisonoff et al. 2024, arXiv:2406.01572, section 3.3.

    log p  <- log p(code | x) of the network at every masked place                           1 evaluation, no gradient
    mean    = sum_k p_k e_k;   pull = gradient of log p(y | draw(mean)) in mean               1 backward pass of decoder and operator
    drawn  ~  softmax(log p_k + strength pull (e_k - mean))                                   the first order of log p(y | ...) in a code
    x      <- drawn at some of the masked places; what is unmasked stays

Needs   a prior over tokens; a differentiable operator
Cost    1 evaluation per step, forward only; 1 forward and backward pass of decoder and operator
Paper   There the slope is that of a classifier at one-hot tokens, with respect to the token that is there; a masked place has none, so
        here it is taken at the mean code, as DPS takes it at the mean picture. strength 1 is the formula; a first order is good for small
        changes only, and one code for another is none where the noise is small.

Example

    from flowhelm import Noise, load, operators, restore, run, sample, simulate
    prior, noise = load("fashion-tokens"), Noise(0, rows=1)
    tokens = run(sample.unmasking(prior, prior.source(noise), prior.times(16), noise=noise)).x
    y = simulate(operators.box((1, 32, 32), size=10), prior.decode(tokens), 0.05, noise)
    final = run(restore.tag(prior, y, prior.source(noise), prior.times(20), noise=noise))
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import NonNegative, checked
from ..grad import value_and_grad
from ..masked import Masked, best, gumbel, kept
from ..measure import Measurement
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def tag(
    flow: Masked,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    strength: NonNegative = 1.0,
    noise: Noise,
) -> Iterator[Step]:
    """TAG: Taylor-approximated guidance of tokens. Nisonoff et al. 2024, arXiv:2406.01572.

    Args:
        x: tokens `(b, *shape)` at times[0], K where masked; times: the share of places that are kept.
        strength: of the guidance; 1 is the first order of the likelihood.

    Yields steps whose x is tokens with masks, and clean what was drawn for every place; info["misfit"], 1/2 |A clean - y|^2, `(b,)`.
    """
    total = len(times) - 1
    for i, t in enumerate(times[1:], 1):
        network = flow.believed(x)
        mean = flow.expected(network.exp())
        pull = value_and_grad(lambda code: y(flow.draw(code)), mean)[1].movedim(1, -1)  # (b, *shape, d)
        tilt = pull @ flow.tokenizer.codes.to(pull).T - (pull * mean.movedim(1, -1)).sum(-1, keepdim=True)
        drawn = (network + strength * tilt + gumbel(noise, network)).argmax(-1)
        drawn = torch.where(x == flow.mask, drawn, x)
        order = noise(drawn.flatten(1).float()).masked_fill((x != flow.mask).flatten(1), math.inf)
        x = torch.where(best(order, kept(t, flow.places)).view_as(x), drawn, flow.mask)
        yield Step(i, total, t, x, drawn, {"misfit": y.misfit(flow.decode(drawn))})
