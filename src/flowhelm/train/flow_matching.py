"""Conditional flow matching. Lipman et al. 2023, arXiv:2210.02747, eq. 23; Liu et al. 2023, arXiv:2209.03003, eq. 1.

    t ~ density,  source ~ N(0, 1),  (source, clean) ~ coupling
    x_t = sigma source + alpha clean
    loss = weight(t) | velocity(x_t, t, condition) - (sigma' source + alpha' clean) |^2

Needs   batches of clean states
Cost    1 evaluation, 1 backward
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..flow import NetFlow
from ..path import at, mix
from .data import Batch
from .times import Density, draw, uniform

Source = Callable[[Tensor, torch.Generator], Tensor]
"""Clean states (for their shape and place), generator -> sources of the same shape."""
Coupling = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Sources, clean states, generator -> which source each clean state is paired with: indices `(b,)`."""


def normal(clean: Tensor, generator: torch.Generator) -> Tensor:
    """The standard normal source."""
    return torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)


def dropped(
    condition: tuple[Tensor, ...], null: tuple[Tensor, ...], share: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Each condition of each row is put to its null with probability `share`, independently of the others.

    Classifier-free guidance, Ho & Salimans 2022, arXiv:2207.12598, algorithm 1. Several conditions are dropped
    independently, as the text encoders of arXiv:2403.03206 are: for one in r rows without any, of n, share = r^(1/n).
    """
    if len(null) != len(condition):
        raise ValueError(
            f"dropped: expected an empty condition for each of {len(condition)}, got {len(null)}; give the flow them as `null`, "
            "or train with drop=0"
        )
    out = []
    for told, nothing in zip(condition, null, strict=True):
        gone = torch.rand(len(told), generator=generator, device=generator.device) < share
        out.append(torch.where(gone.view(-1, *[1] * (told.ndim - 1)), nothing.to(told.device), told))
    return tuple(out)


def flow_matching(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    density: Density = uniform,
    source: Source = normal,
    coupling: Coupling | None = None,
    weight: Callable[[Tensor], Tensor] | None = None,
    drop: float = 0.1,
) -> Tensor:
    """The loss of every row `(b,)`: mean over a state's elements of the squared error of the velocity.

    Args:
        flow: of a network; or a pipeline, bound to what each row shows, for batches without conditions.
        density: of the time; see `train.times`.
        source: what t = 0 is; anything but `normal` must also be what `flow.source` draws. A batch that brings its own keeps it.
        coupling: None for independent pairs; see `train.coupling`.
        weight: times `(b,)` -> weights `(b,)`; None for 1. A density and a weight are alternatives: not both for one purpose.
        drop: share of rows whose condition is dropped, for classifier-free guidance.

    Raises:
        ValueError: a batch with conditions for a pipeline.
    """
    clean = batch.clean
    if batch.condition and not hasattr(flow, "condition"):
        raise ValueError(
            f"flow_matching: expected a batch without conditions for a {type(flow).__name__}, which bind tells what it shows, got "
            f"{len(batch.condition)}; bind the flow to them inside your loss"
        )
    start = source(clean, generator) if batch.source is None else batch.source
    if coupling is not None:
        start = start[coupling(start, clean, generator)]
    t = draw(density, len(clean), generator).to(clean)
    told = dropped(batch.condition, flow.null, drop, generator) if batch.condition and drop else batch.condition
    a = at(flow.path, t, clean)
    asked = replace(flow, condition=told) if told else flow
    error = asked.velocity(mix(flow.path, start, clean, t), t)
    error = error - (a.d_sigma * start + a.d_alpha * clean)
    loss = error.square().flatten(1).mean(1)
    return loss if weight is None else weight(t) * loss
