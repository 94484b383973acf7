"""VBLE: variational Bayes latent estimation. Biquard et al. 2023, arXiv:2311.17744.

The prior is a compressor: -log p(z | h) - log p(h) is the length of a file. The posterior of its latents is uniform in boxes:

    z, h <- centre + width (u - 1/2),   u ~ U(0, 1)
    loss  = |A decode(z) - y|^2 / (2 std^2) - weight (log p(z | h) + log p(h) + sum log width)
    centre, log width <- Adam

Needs   a compressor with a likelihood (`flowhelm train codec`, `codec.CodecPrior`); a differentiable operator
Start   the degraded picture with its holes filled, encoded; widths 1, the bin of a rounded latent
Cost    `draws` forwards and backwards through decoder and operator per step, `decodes` forwards at the end
Paper   300 steps (400 for inpainting), rate 0.1, widths in [1.5e-5, 20], gradients of norm at most 20 (here of each row), weight .6 to 18
        by task (1 is Bayes' rule), 100 decodes. Here the rate falls to 0 by a cosine; no clamping. law="point" is MAP. With -log p
        quadratic, a linear decoder and posterior precision L the optimum is the exact mean, width_i = sqrt(12 / L_ii).

Example

    from flowhelm import Noise, begin, load, operators, restore, run, simulate
    flow, noise = load("codec").sized(32, 32), Noise(0, rows=1)
    y = simulate(operators.denoise(flow.shape), flow.draw(noise), 0.2, noise)
    final = run(restore.vble(flow, y, *begin(restore.vble, flow, y, 50, noise), noise=noise))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from ..codec import CodecPrior, Latents, packed, unpacked
from ..entry import Count, Positive, checked
from ..flow import Flow
from ..grad import per_row, value_and_grad
from ..measure import Measurement
from ..paired import within
from ..rng import Noise
from ..shapes import State, Times
from ..step import Step


@checked
@torch.no_grad()
def vble(
    flow: Flow,
    y: Measurement,
    x: State,
    times: Times,
    *,
    weight: Positive = 1.0,
    rate: Positive = 0.1,
    law: Literal["uniform", "point"] = "uniform",
    answer: Literal["mean", "sample", "centre"] = "mean",
    draws: Count = 1,
    decodes: Count = 32,
    carried: Mapping[str, Tensor] | None = None,
    noise: Noise,
) -> Iterator[Step]:
    """VBLE: variational Bayes latent estimation. Biquard et al. 2023, arXiv:2311.17744.

    Args:
        x: the picture `(b, *shape)` to begin at. times: as many steps as it has intervals; the times are only told, not used.
        weight: weight of the prior against the measurement; 1 is Bayes' rule.
        rate: step length of Adam at first.
        law: law of the latents: `uniform` in boxes, or a `point` (MAP).
        answer: what comes out: `mean` of pictures drawn (least squared error), one `sample`, or the picture of the `centre`.
        draws: latents drawn for each step.
        decodes: pictures whose mean is taken at the end.
        carried: `info` of the last step of an interrupted run.

    Yields steps whose x is a picture of latents drawn, at the end the answer; info: `misfit`, `bits` (of its file), `(b,)`; with a mean
    `std` of each pixel; what is carried: `law` (centres, log widths), `first`, `second`, `done`.
    """
    if (prior := within(flow, CodecPrior)) is None:
        raise ValueError("vble: expected a compressor as prior, such as codec; train one with flowhelm train codec")
    like, told, steps = prior.analyse(x), dict[str, Tensor](), len(times) - 1
    flat, uniform, done = packed(like), law == "uniform", 0
    first = second = 0 * (theta := torch.stack([flat, 0 * flat], 1))
    if carried:
        theta, first, second, done = (*(carried[n] for n in ("law", "first", "second")), int(carried["done"][0]))

    def drawn(theta: Tensor) -> Latents:
        u = torch.special.ndtr(noise(flat)) - 0.5 if uniform else 0
        return unpacked(theta[:, 0] + theta[:, 1].exp().clamp(1.5e-5, 20.0) * u, like)

    def loss(theta: Tensor) -> Tensor:
        whole = -weight * uniform * theta[:, 1].sum(1)
        for _ in range(draws):
            latents = drawn(theta)
            picture, log_prior = prior.picture(latents.latent), prior.log_prior(latents)
            whole = whole + ((misfit := y.misfit(picture)) / y.std**2 - weight * log_prior) / draws
            told.update(picture=picture.detach(), misfit=misfit.detach(), bits=-log_prior.detach() / math.log(2))
        return whole / x[0].numel()

    for i, t in enumerate(times[1:], 1):
        length = rate * (1 + math.cos(math.pi * done / (done + steps + 1 - i))) / 2
        _, gradient = value_and_grad(loss, theta)
        gradient *= per_row(20 / gradient.flatten(1).norm(dim=1).clamp(min=20), gradient)
        first, second, done = first.lerp(gradient, 0.1), second.lerp(gradient.square(), 0.001), done + 1
        theta = theta - length * first / (1 - 0.9**done) / ((second / (1 - 0.999**done)).sqrt() + 1e-8)
        shown, number = told.pop("picture"), flat.new_full((len(x),), done)
        info = told | {"law": theta, "first": first, "second": second, "done": number}
        if i == steps and answer == "mean" and uniform:
            pictures = torch.stack([prior.picture(drawn(theta).latent) for _ in range(decodes)])
            shown, info["std"] = pictures.mean(0), pictures.std(0, correction=0)
        elif i == steps:
            shown = prior.picture((drawn(theta) if answer == "sample" else unpacked(theta[:, 0], like)).latent)
        yield Step(i, steps, t, shown, shown, info)
