"""G2D2: gradient-guided discrete diffusion. Murata et al. 2024, arXiv:2410.14710, Alg. 1.

    phi    <- log p(code | x) of the network at the masked places                            1 evaluation, no gradient
    phi    <- argmin  E |A draw(z) - y|^2 / (2 std^2) + trust KL(softmax phi | network)       `inner` steps of Adam on phi, where
              z = sum_k softmax((phi + Gumbel) / relax)_k e_k, drawn anew in each step        (Gumbel-softmax relaxation)
    drawn  ~  softmax phi
    x      <- drawn, each place masked anew by chance 1 - t                                   (star-shaped: not what x had masked)

Needs   a prior over tokens; a differentiable operator
Cost    1 evaluation per step, forward only; `inner` forward and backward passes of decoder and operator
Paper   VQ-Diffusion's prior, 100 steps, about 30 inner steps of RAdam whose rates fall over the run; the start of phi mixes in the last
        step's. Here one rate, Adam, and the start is the network's law alone. So many places are masked as the share says, not by
        chance each. With x all of whose places are masked a step is that of `aps` with another relaxation.

Example

    from flowhelm import Noise, load, operators, restore, run, sample, simulate
    prior, noise = load("fashion-tokens"), Noise(0, rows=1)
    tokens = run(sample.unmasking(prior, prior.source(noise), prior.times(16), noise=noise)).x
    y = simulate(operators.box((1, 32, 32), size=10), prior.decode(tokens), 0.05, noise)
    final = run(restore.g2d2(prior, y, prior.source(noise), prior.times(8), inner=20, noise=noise))
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..entry import Count, NonNegative, Positive, checked
from ..masked import Masked, best, gumbel, kept
from ..measure import Measurement
from ..prox import tilted
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def g2d2(
    flow: Masked,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    inner: Count = 100,
    rate: Positive = 0.1,
    trust: NonNegative = 1.0,
    relax: Positive = 1.0,
    noise: Noise,
) -> Iterator[Step]:
    """G2D2: gradient-guided discrete diffusion. Murata et al. 2024, arXiv:2410.14710.

    Args:
        x: tokens `(b, *shape)` at times[0], K where masked; times: the share of places that are kept.
        inner: steps of Adam on the logits.
        rate: of Adam.
        trust: price of leaving the network's law, in nats per nat.
        relax: temperature of the relaxation: the smaller it is, the nearer a draw is to one code.

    Yields steps whose x is tokens with masks, and clean what was drawn for every place; info["misfit"], 1/2 |A clean - y|^2, `(b,)`.
    """
    total = len(times) - 1
    for i, t in enumerate(times[1:], 1):
        network = flow.believed(x)

        def fit(log_p: Tensor) -> Tensor:
            soft = ((log_p + gumbel(noise, log_p)) / relax).softmax(-1)
            return y(flow.draw(flow.expected(soft)))

        phi = tilted(network, fit, inner=inner, rate=rate, trust=trust)
        drawn = (phi + gumbel(noise, phi)).argmax(-1)
        drawn = torch.where(x == flow.mask, drawn, x)
        x = torch.where(
            best(noise(drawn.flatten(1).float()), kept(t, flow.places)).view_as(x).to(x.device), drawn, flow.mask
        )
        yield Step(i, total, t, x, drawn, {"misfit": y.misfit(flow.decode(drawn))})
