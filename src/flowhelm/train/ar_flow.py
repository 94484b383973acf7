"""Flow matching with a memory of earlier states. ARFlow, Hui et al. 2025, arXiv:2501.16085.

    train:   n pictures of one class, t_1 <= ... <= t_n sorted uniform times, x_s = (1 - t_s) source_s + t_s clean_s
             loss = mean over s of |net(x_s, t_s | x_1, ..., x_{s-1}) - (clean_s - source_s)|^2
    sample:  memory <- 0;  at each time  (v, memory) <- net(x, t | memory),  x <- x + h (v + (1 - t) score) + sqrt(2 (1 - t) h) noise

Needs   several pictures of each class (`sequences`); a network with a memory (`priors.recaller`)
Cost    1 evaluation, 1 backward for n pictures; a step of the sampler costs what it costs without memory
Paper   Given its class, the other pictures of a sequence are independent of a picture, and the best velocity does not use them.
        `first="clean"` turns the order round: earlier pictures then show the class, to a network that is not told it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ..entry import checked, guarded
from ..flow import NetFlow
from ..rng import Noise
from ..step import Step
from .data import Batch, Data, seeded
from .flow_matching import dropped, normal


def sequences(clean: Tensor, labels: Tensor, *, length: int = 5, batch: int = 32, seed: int = 0) -> Data:
    """Batches `(batch, length, ...)` of different pictures of one class, drawn at random, with that class `(batch,)`.

    Args:
        clean: `(n, ...)` in [-1, 1]. labels: `(n,)` int64; every class that occurs needs `length` pictures.
    """
    rows = {int(label): (labels == label).nonzero()[:, 0] for label in labels.unique()}
    few = min(rows, key=lambda label: len(rows[label]))
    if len(rows[few]) < length:
        raise ValueError(f"sequences: expected {length} pictures of every class, got {len(rows[few])} of class {few}")

    def data(index: int) -> Batch:
        draw = seeded(seed, index, purpose="sequences")
        told = torch.tensor(list(rows))[torch.randint(len(rows), (batch,), generator=draw)]
        picked = [rows[k][torch.randperm(len(rows[k]), generator=draw)[:length]] for k in told.tolist()]
        return Batch(clean[torch.stack(picked)], (told,))

    return data


@guarded
def ar_flow(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    first: Literal["noisy", "clean"] = "noisy",
    drop: float = 0.1,
) -> Tensor:
    """The loss of every sequence `(b,)`, for `train.fit`.

    Args:
        flow: `NetFlow(Recaller(...), shape of a picture)`, on the linear path. batch: as `sequences` makes them.
        first: the end of the sequence that its earliest pictures are nearest to. drop: share of sequences without their class.
    """
    net: Any = flow.net
    clean, rows, n = batch.clean, *batch.clean.shape[:2]
    source = normal(clean, generator)
    t = torch.rand(rows, n, generator=generator, device=clean.device).sort(1, descending=first == "clean").values
    (label,) = dropped(batch.condition, flow.null, drop, generator)
    wide = t.view(rows, n, *[1] * (clean.ndim - 2)).to(clean)
    v, _ = net.step((1 - wide) * source + wide * clean, t, label, net.empty(rows))
    return (v - (clean - source)).square().flatten(1).mean(1)


@checked
@torch.no_grad()
def recalled(
    flow: NetFlow, x: Tensor, times: Tensor, *, noise: Noise | None = None, memory: Literal["kept", "dropped"] = "kept"
) -> Iterator[Step]:
    """Samples of a network that sees its own earlier states; the memory begins empty at every call.

    Args:
        flow: bound to a class, `flow.bind(labels)`. x: state `(b, *shape)` at times[0]; times: increasing, float64 on the CPU.
        noise: one stream per row for the stochastic sampler, whose last step is without; None for Euler steps.
        memory: "dropped" forgets after each step: the network by itself.
    """
    net: Any = flow.net
    kept, total = net.empty(len(x)), len(times) - 1
    for i, (s, t) in enumerate(pairwise(times), 1):
        h, now = float(t - s), min(max(float(s), 1e-3), 1 - 1e-3)
        v, after = net.step(x[:, None], x.new_full((len(x), 1), now), *flow.condition, kept)
        v, clean = v[:, 0], x + (1 - now) * v[:, 0]
        kept = after if memory == "kept" else kept
        if noise is not None and i < total:
            v = v + (now * v - x)  # (1 - t) times the score, which is (t v - x) / (1 - t)
            x = x + (2 * (1 - now) * h) ** 0.5 * noise(x)
        x = x + h * v
        yield Step(i, total, t, x, clean)
