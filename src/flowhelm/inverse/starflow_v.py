"""starflow_v: a video, frame by frame, each begun from the one before. Gu et al. 2025 (STARFlow-V), arXiv:2511.20462.

    h <- frames that are given, through the shallow blocks
    for each frame n that is not given:
        h_n <- h_(n-1)                                       the start; of the first frame: its noise
        for each block of tokens of the frame, keys and values of all before it kept:
            until it changes no more, J times at most:   h_n <- clamp(z_n exp(log_scale(h)) + mean(h))        the deep block
        u_n <- h_n through the inverses of the shallow blocks, which see this frame alone

Needs   a `Bijection` over videos, whose last block goes over all tokens in the order of time and whose other blocks see one frame
Cost    sweeps of a few tokens each; frames come one after another, so that a video can be shown while it is made
Paper   blocks of 32 to 64 tokens in frame 1, four times that later, until |change|^2 < 1e-3 |x|^2, 32 sweeps at most. Here a token is
        settled by its root mean square change, as in `jacobi`, and the shallow blocks are inverted by Jacobi, too.

Example

    from flowhelm import Bijection, Noise, inverse, run
    from flowhelm.priors.tarflow import TarFlow
    net = TarFlow(8, 4, 1, (1, 1), 16, 1, frames=3)
    flow = Bijection(net, net.shape)
    final = run(inverse.starflow_v(flow, flow.source(Noise(0, rows=1))))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ..bijection import Bijection, Update, arranged, scattered
from ..entry import Count, NonNegative, Positive, checked
from ..fixed_point import jacobi as sweeps_of
from ..step import Step


@checked
@torch.no_grad()
def starflow_v(
    flow: Bijection,
    z: Tensor,
    *,
    given: Tensor | None = None,
    start: Literal["previous", "noise"] = "previous",
    tolerance: NonNegative = 1e-3,
    block: Count = 16,
    later: Count = 64,
    sweeps: Count | None = 32,
    clamp: Positive = 100.0,
) -> Iterator[Step]:
    """starflow_v: a video, frame by frame, each begun from the one before. Gu et al. 2025, arXiv:2511.20462.

    Args:
        flow: over videos `(frames, c, h, w)`, bound to its conditions. z: noise, tokens `(b, n, d)`: `flow.source(noise)`.
        given: the first frames `(b, k, c, h, w)`, with the training's noise; the rest is drawn to follow them.
        start: of the sweeps of a frame: the frame before, or its noise.
        tolerance: root mean square change of a token below which it is settled; 0 is exact.
        block, later: tokens that are solved at once in frame 1, and in those after it. sweeps: of a block of tokens, at most.
        clamp: greatest absolute value of a token.

    Yields a step for each frame; `clean` is the video so far (frames to come are 0), info["sweeps"] of the deep block in this frame.
    """
    wanted = tuple(flow.net.tokens(z.new_zeros(1, *flow.shape)).shape[1:])
    if tuple(z.shape[1:]) != wanted:
        raise ValueError(
            f"starflow_v: expected noise of {flow.shape[0]} frames, (b, {wanted[0]}, {wanted[1]}), got {tuple(z.shape)}; take flow.source"
        )
    *shallow, deep = flow.blocks
    frames, span = flow.shape[0], z.shape[1] // flow.shape[0]
    if deep.span is not None or deep.backwards or any(each.span != span for each in shallow):
        raise ValueError("starflow_v: expected a flow over videos, whose last block alone goes over all frames")
    done = 0 if given is None else given.shape[1]
    if done >= frames or (given is not None and given.shape != (len(z), done, *flow.shape[1:])):
        raise ValueError(
            f"starflow_v: expected fewer than {frames} frames {(len(z), 'k', *flow.shape[1:])}, got {tuple(given.shape)}"  # type: ignore[union-attr]
        )
    u, h = torch.zeros_like(z), torch.zeros_like(z)
    if given is not None:
        rest = given.new_zeros(len(z), frames - done, *flow.shape[1:])
        u[:, : done * span] = flow.net.tokens(torch.cat([given, rest], 1))[:, : done * span]
        h = u
        for each in shallow:
            rows = arranged(each, h)
            mean, log_scale = flow.affine(each, rows)
            h = scattered(each, (rows - mean) * (-log_scale).exp(), len(h))
    update = Update(flow, deep, z, clamp)
    for frame in range(done, frames):
        begin, end = frame * span, (frame + 1) * span
        first = z[:, begin:end] if start == "noise" or frame == 0 else h[:, begin - span : begin]
        h = torch.cat([h[:, :begin], first, h[:, end:]], 1)
        made, size = 0, block if frame == 0 else later
        for at in range(begin, end, size):
            for sweep in sweeps_of(update, h, tolerance=tolerance, first=at, stop=min(at + size, end)):
                h = sweep.x
                if sweep.sweeps == sweeps:
                    break
            made += sweep.sweeps
        x = h[:, begin:end]
        for each in reversed(shallow):
            rows = arranged(each, x)
            for sweep in sweeps_of(Update(flow, each, rows, clamp), rows.clone(), tolerance=tolerance):
                rows = sweep.x
            x = scattered(each, rows, len(z))
        u = torch.cat([u[:, :begin], x, u[:, end:]], 1)
        time = torch.tensor((frame + 1) / frames, dtype=torch.float64)
        yield Step(frame + 1 - done, frames - done, time, u, flow.net.image(u), {"sweeps": torch.tensor(made)})
