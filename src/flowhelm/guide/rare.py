"""Minority guidance by a classifier: towards the samples that are rarest. Um, Lee & Ye 2024, arXiv:2301.12334, eq. 9.

A classifier of noisy states says how rare their clean end is; its classes are quantiles of a score of rarity:

    v <- v + scale kappa grad_x log p(label | x_t),    kappa = (alpha'/alpha) sigma^2 - sigma' sigma

Needs   a flow; a differentiable classifier of noisy states: see `train.rarity` for its classes and its loss
Cost    1 evaluation of the flow, never differentiated; 1 of the classifier and its gradient where start < t < stop
Paper   100 classes, label 99, scale 3.5, 250 steps of a diffusion model, there of the score; kappa turns it into a velocity and
        is (1-t)/t on the linear path. At scale 1 and with an exact classifier the flow is that of p(clean | label). kappa is
        infinite at t = 0, where the gradient is 0, so that nothing is added at that time itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..entry import Fraction, guarded
from ..flow import Flow, Wrapped
from ..grad import value_and_grad
from ..path import at
from ..shapes import State, Time

Classifier = Callable[[Tensor, Tensor], Tensor]
"""States `(b, *shape)` and times `(b,)` -> logits `(b, classes)`."""


@dataclass(frozen=True, eq=False)
class Rare(Wrapped):
    flow: Flow
    classifier: Classifier
    scale: float
    label: int
    start: float
    stop: float

    def velocity(self, x: State, t: Time) -> State:
        v = self.flow.velocity(x, t)
        inside = (self.start < t) & (t < self.stop)
        if self.scale == 0 or not inside.any():
            return v
        each = t.to(x).expand(len(x))
        _, gradient = value_and_grad(lambda z: self.classifier(z, each).log_softmax(1)[:, self.label], x)
        c = at(self.path, torch.where(inside, t, 0.5), x)  # where nothing is added, any finite number will do
        kappa = c.d_alpha / c.alpha * c.sigma**2 - c.d_sigma * c.sigma
        inside = inside.to(x).reshape(-1, *(1,) * (x.ndim - 1))
        return v + self.scale * kappa * inside * gradient


@guarded
def rare(
    flow: Flow,
    classifier: Classifier,
    *,
    scale: float = 3.5,
    label: int = -1,
    start: Fraction = 0.0,
    stop: Fraction = 1.0,
) -> Flow:
    """Minority guidance by a classifier: towards the samples that are rarest. Um, Lee & Ye 2024, arXiv:2301.12334, eq. 9.

    Args:
        classifier: `classifier(x, t)`, states `(b, *shape)` and times `(b,)` in the dtype of x, to logits `(b, classes)`.
        scale: 0 changes nothing, 1 is the law given the label, more exaggerates it.
        label: a class; the last one is the rarest.
        start, stop: guidance acts where start < t < stop.

    The shift is a constant for whoever differentiates the edited velocity.
    """
    return Rare(flow, classifier, scale, label, start, stop)
