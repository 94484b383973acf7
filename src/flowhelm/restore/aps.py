"""APS: anchored posterior sampling over tokens. Rout et al. 2025, arXiv:2510.02291.

    phi    <- log p(code | x) of the network at every place                                 1 evaluation, no gradient
    phi    <- argmin  |A draw(q) - y|^2 / (2 std^2) + trust KL(softmax phi | network)       `inner` steps of Adam on phi, where
              q = nearest code of  mean = sum_k softmax(phi)_k e_k,  with the gradient of the mean     (quantised expectation)
    drawn  <- the best code of each place by phi, or a draw
    x      <- drawn at the `t L` places of largest phi_drawn, of all places; the rest masked           (anchored remasking)

Needs   a prior over tokens; a differentiable operator
Cost    1 evaluation per step, forward only; `inner` forward and backward passes of decoder and operator
Paper   15 steps, inner 100; |A draw(q) - y|_1 plus a perceptual distance in place of the log-likelihood, with no price for leaving the
        network's law but the start. Here that price is KL with `trust` 1, with which the cost is minus a lower bound of log p(y), but
        for the rounding. Adam's rate is not known; rate and doubt were chosen on training pictures of `fashion-tokens`. A place that is
        not masked is believed with probability 1 - doubt: the network was not trained to say anything of it, and the paper does not say
        what stands there. `remask` network ranks by the network's own confidence, never keeps what is unmasked: what the paper
        compares with.

Example

    from flowhelm import Noise, load, operators, restore, run, sample, simulate
    prior, noise = load("fashion-tokens"), Noise(0, rows=1)
    tokens = run(sample.unmasking(prior, prior.source(noise), prior.times(16), noise=noise)).x
    y = simulate(operators.box((1, 32, 32), size=10), prior.decode(tokens), 0.05, noise)
    final = run(restore.aps(prior, y, prior.source(noise), prior.times(8), inner=20, noise=noise))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ..entry import Count, Fraction, NonNegative, Positive, checked
from ..masked import Masked, best, gumbel, kept
from ..measure import Measurement
from ..prox import tilted
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def aps(
    flow: Masked,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    inner: Count = 100,
    rate: Positive = 1.0,
    trust: NonNegative = 1.0,
    doubt: Fraction = 0.5,
    quantise: bool = True,
    choice: Literal["best", "draw"] = "best",
    remask: Literal["anchored", "network", "never"] = "anchored",
    temperature: NonNegative = 1.0,
    noise: Noise,
) -> Iterator[Step]:
    """APS: anchored posterior sampling over tokens. Rout et al. 2025, arXiv:2510.02291.

    Args:
        x: tokens `(b, *shape)` at times[0], K where masked; times: the share of places that are kept.
        inner: steps of Adam on the logits.
        rate: of Adam.
        trust: price of leaving the network's law, in nats per nat.
        doubt: probability with which a place that is not masked may be any other code.
        quantise: give the decoder codes, with the gradient of their mean; false gives it the mean itself.
        choice: best for the best code of each place; draw for a draw of it.
        remask: anchored keeps the places that are surest given the measurement, whether masked before or not; network those that the
            network is surest of; never keeps what is unmasked, and adds the surest.
        temperature: of Gumbel noise on the confidence, which falls with 1 - t.

    Yields steps whose x is tokens with masks, and clean what was chosen for every place; info["misfit"], 1/2 |A clean - y|^2, `(b,)`.
    """
    total = len(times) - 1
    for i, t in enumerate(times[1:], 1):
        network = flow.believed(x, doubt)

        def fit(log_p: Tensor) -> Tensor:
            mean = flow.expected(log_p.exp())
            code = mean + (flow.embed(flow.nearest(mean)) - mean).detach() if quantise else mean
            return y(flow.draw(code))

        phi = tilted(network, fit, inner=inner, rate=rate, trust=trust)
        drawn = (phi + gumbel(noise, phi) if choice == "draw" else phi).argmax(-1)
        if remask == "never":
            drawn = torch.where(x == flow.mask, drawn, x)
        sure = (network if remask == "network" else phi).gather(-1, drawn[..., None])[..., 0].flatten(1)
        sure = sure + temperature * float(1 - t) * gumbel(noise, sure)
        if remask == "never":
            sure = sure.masked_fill((x != flow.mask).flatten(1), math.inf)
        x = torch.where(best(sure, kept(t, flow.places)).view_as(x), drawn, flow.mask)
        yield Step(i, total, t, x, drawn, {"misfit": y.misfit(flow.decode(drawn))})
