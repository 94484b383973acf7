"""Blockwise Flow Matching: a network for each span of time. Park et al. 2025, arXiv:2510.21167, sections 3.2 to 3.4.

    block:      t uniform, the rows shared out evenly over the segments;  h = features(x_t, t)
                loss = |v_m(x_t, t, h) - (clean - source)|^2 - weight mean over tokens of cos(project(h), semantics(clean))
    residual:   all else fixed, the same source at both times, t_m the beginning of the segment of t
                loss = |features(x_{t_m}) + kappa residual(x_t) - features(x_t)|^2,   kappa = (t - t_m) / (t_{m+1} - t_m)
    switched:   for each segment  h <- features(x, t_m);  in it  x <- x + dt v_m(x, t, h + kappa residual(x, t))

Needs   `priors.blocks`; for the semantics a network that sees what is in a picture
Cost    1 evaluation, 1 backward; residual: 2 evaluations of the features more
Paper   DINOv2 gives the semantics, weight 0.05. Here any function of clean pictures, such as a classifier's inner layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..entry import Count, checked
from ..flow import NetFlow
from ..path import at, mix
from ..step import Step
from .data import Batch
from .flow_matching import dropped, normal
from .times import draw, uniform

Semantics = Callable[[Tensor], Tensor]
"""Clean pictures `(b, c, h, w)` -> what is where in them, `(b, tokens, numbers)`, tokens as the network's."""


def block(
    flow: NetFlow,
    batch: Batch,
    generator: torch.Generator,
    *,
    semantics: Semantics | None = None,
    weight: float = 0.05,
    drop: float = 0.1,
) -> Tensor:
    """The loss of every row `(b,)`, for `train.fit`.

    Args:
        flow: `NetFlow(Blocks(...), shape, null=net.null)`. batch: clean pictures, with their label.
        semantics: what the features are held to; None for nothing. weight: of it. drop: share of rows without their label.
    """
    net: Any = flow.net
    source, t, (label,), x = _noised(flow, batch, generator, drop)
    h = net.features(x, t, label)
    c = at(flow.path, t, x)
    error = net.velocity(x, t, label, h) - (c.d_sigma * source + c.d_alpha * batch.clean)
    loss = error.square().flatten(1).mean(1)
    if semantics is None:
        return loss
    with torch.no_grad():
        goal = semantics(batch.clean)
    return loss - weight * fn.cosine_similarity(net.project(h), goal, dim=-1).mean(1)


def residual(flow: NetFlow, batch: Batch, generator: torch.Generator, *, drop: float = 0.1) -> Tensor:
    """The loss of every row `(b,)`, for `train.fit`; give it a network of which only `net.residual` asks for gradients."""
    net: Any = flow.net
    source, t, (label,), x = _noised(flow, batch, generator, drop)
    begin = net.segment(t).to(t) / net.segments
    with torch.no_grad():
        goal = net.features(x, t, label)
        h = net.features(mix(flow.path, source, batch.clean, begin), begin, label)
    return (net.carried(h, x, t, label) - goal).square().flatten(1).mean(1)


@checked
@torch.no_grad()
def switched(
    flow: NetFlow, x: Tensor, *, per_segment: Count = 4, order: Literal[1, 2] = 1, exact: bool = False
) -> Iterator[Step]:
    """Samples; the features are made at the beginning of each segment and carried on inside it.

    Args:
        flow: bound to labels, without guidance. x: state `(b, *shape)` at t = 0. per_segment: steps in each. order: 1 for Euler
            steps; 2 for Adams-Bashforth, which forgets at each border, since the slopes before it are of another network.
        exact: make the features anew at every step.
    """
    net: Any = flow.net
    total = net.segments * per_segment
    times = torch.linspace(0, 1, total + 1, dtype=torch.float64)
    kept = before = x
    for i, (s, e) in enumerate(pairwise(times)):
        now, (label,) = s.to(x).expand(len(x)), flow.condition
        if exact or i % per_segment == 0:
            h = kept = net.features(x, now, label)
        else:
            h = net.carried(kept, x, now, label)
        v = net.velocity(x, now, label, h)
        slope = v if order == 1 or i % per_segment == 0 else 1.5 * v - 0.5 * before
        x, clean, before = x + (e - s).to(x) * slope, x + (1 - s).to(x) * v, v
        yield Step(i + 1, total, e, x, clean)


def _noised(
    flow: NetFlow, batch: Batch, generator: torch.Generator, drop: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], Tensor]:
    """Sources, times, labels and states; times are drawn in strata, so that the segments have their equal shares of rows."""
    source, t = normal(batch.clean, generator), draw(uniform, len(batch.clean), generator).to(batch.clean)
    return source, t, dropped(batch.condition, flow.null, drop, generator), mix(flow.path, source, batch.clean, t)
