"""SGDD: split Gibbs for discrete diffusion. Chu et al. 2025, arXiv:2503.01161, Alg. 1.

    z ~ p(z | what is kept of x), the places that are masked filled in by the prior                  `fill` evaluations
    x ~ p(y | draw(codes of x)) prod_l (s [x_l is z_l] + (1 - s) / K),  by `proposals` of Metropolis:
        one place at random changes its code for any other, accepted by the ratio
    x_l is kept with probability t / (t + (1 - t) / K) where x_l is z_l, and masked where it is not

Needs   a prior over tokens
Cost    `fill` evaluations per step; `proposals` forward passes of decoder and operator; no gradient
Paper   x and z are coupled by uniform noise whose level falls, as here; there a network for that noise draws z given x. Here the network
        knows masks alone, and what is masked is drawn, too: given both, a place where they agree was kept with the probability above, and
        one where they do not agree was not. That is one more step of Gibbs on the same law. The answer is off by what the last level
        before 1 leaves: take a grid that comes close to 1.

Example

    from flowhelm import Noise, load, operators, restore, run, sample, simulate
    prior, noise = load("fashion-tokens"), Noise(0, rows=1)
    tokens = run(sample.unmasking(prior, prior.source(noise), prior.times(16), noise=noise)).x
    y = simulate(operators.box((1, 32, 32), size=10), prior.decode(tokens), 0.05, noise)
    final = run(restore.sgdd(prior, y, prior.source(noise), prior.times(8), proposals=20, noise=noise))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ..entry import Count, checked
from ..grids import uniform
from ..masked import Masked, unmask
from ..measure import Measurement
from ..rng import Noise
from ..step import Step


@checked
@torch.no_grad()
def sgdd(
    flow: Masked,
    y: Measurement,
    x: Tensor,
    times: Tensor,
    *,
    fill: Count = 4,
    proposals: Count = 200,
    chain: Tensor | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """SGDD: split Gibbs for discrete diffusion. Chu et al. 2025, arXiv:2503.01161.

    Args:
        x: tokens `(b, *shape)` at times[0], K where masked; times: the share of places that are kept.
        fill: moves in which the prior fills the masked places in; as many as there are places draw one at a time, which is exact.
        proposals: of the chain that fits the measurement, in a step.
        chain: its state, to go on from, `(b, *shape)`: that of a step's info.

    Yields steps whose x is tokens with the masks of the next step, and clean the chain's last state; info["misfit"],
    1/2 |A clean - y|^2, and info["accepted"], the share of proposals, `(b,)`, and
    info["chain"], as `clean`.
    """
    total, rows = len(times) - 1, torch.arange(len(x), device=x.device)
    for i, (s, t) in enumerate(pairwise(times), 1):
        z = x
        for a, b in pairwise(uniform(fill)):
            z, _ = unmask(flow, z, a, b, noise, order="random")
        now, accepted = z if chain is None else chain, torch.zeros(len(x), device=x.device)
        value, same = (
            y(flow.decode(now)),
            math.log1p(flow.mask * float(s) / (1 - float(s))),
        )  # what a place that agrees with z is worth
        for _ in range(proposals):
            place = (noise.uniform() * flow.places).long().to(x.device)
            new = now.flatten(1).clone()
            new[rows, place] = (noise.uniform() * flow.mask).long().to(x.device)
            new = new.view_as(now)
            fit = y(flow.decode(new))
            gain = fit - value + same * ((new == z).flatten(1).sum(1) - (now == z).flatten(1).sum(1))
            take = noise.uniform().to(gain).log() < gain
            now = torch.where(take.view(-1, *[1] * len(flow.shape)), new, now)
            value, accepted = torch.where(take, fit, value), accepted + take / proposals
        keep = (now == z) & (
            torch.special.ndtr(noise(now.double())).to(x.device) < t / (t + (1 - t) / flow.mask)
        ) | torch.tensor(bool(t >= 1))
        x = torch.where(keep, now, flow.mask)
        chain = now
        yield Step(i, total, t, x, now, {"misfit": y.misfit(flow.decode(now)), "accepted": accepted, "chain": now})
