"""SGDD: split Gibbs for discrete diffusion. Chu et al. 2025, arXiv:2503.01161, Alg. 1.

    z ~ p(z | x):   each place of x masked by chance 1 - s, then filled in by the prior        `fill` evaluations
    x ~ p(y | draw(codes of x)) prod_l [ t 1(x_l = z_l) + (1 - t) / K ]                        `proposals` of Metropolis, from z:
        one place in `places` at random changes its code for any other, accepted by the ratio

Needs   a prior over tokens
Cost    `fill` evaluations per step; `proposals` forward passes of decoder and operator; no gradient
Paper   The coupling of x and z is a uniform noise whose level falls; the prior step undoes that noise with a network for it. Here the
        network knows masks alone: a place of x is kept with the probability s, in which the coupling's own is the chance that a place is
        what it was. As s goes to 1 both agree and the pair's law goes to the posterior. The paper's chain of likelihood steps is this one.

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
    noise: Noise,
) -> Iterator[Step]:
    """SGDD: split Gibbs for discrete diffusion. Chu et al. 2025, arXiv:2503.01161.

    Args:
        x: tokens `(b, *shape)` at times[0], K where masked; times: the share of places that are kept.
        fill: moves in which the prior fills the masked places in.
        proposals: of the chain that fits the measurement, in a step.

    Yields steps whose x is tokens with the masks of the next step, and clean the chain's last state; info["misfit"],
    1/2 |A clean - y|^2, and info["accepted"], the share of proposals, `(b,)`.
    """
    total, rows = len(times) - 1, torch.arange(len(x), device=x.device)
    for i, (s, t) in enumerate(pairwise(times), 1):
        grid, z = uniform(fill, float(s)), x
        for a, b in pairwise(grid):
            z, _ = unmask(flow, z, a, b, noise, order="random")
        now, accepted = z, torch.zeros(len(x), device=x.device)
        value = y(flow.decode(now))
        same = math.log(1 + float(t) / max(1 - float(t), 1e-6) * flow.mask)  # what a place that agrees with z is worth
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
        keep = torch.special.ndtr(noise(now.double())) < t if t < 1 else torch.ones_like(now, dtype=torch.bool)
        x = torch.where(keep.to(x.device), now, flow.mask)
        yield Step(i, total, t, x, now, {"misfit": y.misfit(flow.decode(now)), "accepted": accepted})
