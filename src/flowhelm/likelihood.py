"""What a noisy state tells of a measurement: likelihoods along the path, tempered so that they end in that of the clean state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .flow import Flow
from .grad import value_and_grad
from .measure import Measurement
from .path import at
from .prox import solvable
from .rng import Noise
from .shapes import State, Time


@dataclass(frozen=True, eq=False)
class Annealed:
    """M_t(x) = t^anneal |A decode(x / alpha) - y|^2 / (2 (std^2 + (softening sigma / alpha)^2)); AFDPS, arXiv:2506.03979.

    Args:
        scaled: the state is divided by alpha; else it is taken as it is.
    """

    flow: Flow
    y: Measurement
    anneal: float
    softening: float
    scaled: bool

    def __call__(self, x: State, t: Time) -> tuple[Tensor, Tensor]:
        """M_t `(b,)` and its gradient; 0 where nothing of the picture is left in x."""
        weight, unit = self._weight(x, t)
        if weight is None:
            return x.new_zeros(len(x)), torch.zeros_like(x)
        return value_and_grad(lambda x: weight * self.y.misfit(self.flow.decode(unit * x)), x)

    def implicit(self, x: State, t: Time, step: Tensor) -> Tensor:
        """The gradient of M_t at z = x - step grad M_t(z), a step that is stable however long; for linear operators on pixels."""
        weight, unit = self._weight(x, t)
        if weight is None or not weight * step:
            return self(x, t)[1]
        return (x - self.y.prox(unit * x, float(step * weight * unit**2 * self.y.std**2)) / unit) / step.to(x)

    def stiffness(self, x: State, t: Time) -> float:
        """The largest second derivative of M_t, for linear operators on pixels."""
        weight, unit = self._weight(x, t)
        return 0.0 if weight is None else float(weight * unit**2) * self.y.stiffness

    def _weight(self, x: State, t: Time) -> tuple[Tensor | None, Tensor]:
        """M_t(x) = weight misfit(decode(unit x)), 0-dim; None where nothing of the picture is left in x."""
        c = at(self.flow.path, t, x)
        if c.alpha == 0 and (self.scaled or self.softening):
            return None, torch.ones_like(c.alpha)
        std2, noise = self.y.std**2, self.softening
        weight = t**self.anneal / (std2 + (noise * c.sigma / c.alpha) ** 2 if noise else std2)
        return weight, 1 / c.alpha if self.scaled else torch.ones_like(c.alpha)

    def begun(self, x: State, t: Time, noise: Noise) -> tuple[Tensor, Tensor]:
        """A state drawn from the prior at time t made one of the law p_t exp(-M_t), and the M_t `(b,)` still to be weighed by."""
        m = self(x, t)[0]
        if at(self.flow.path, t, x).alpha == 0 and m.any() and solvable(self.flow, self.y):
            return self.y.perturbed(len(x), noise).prox(x, 1.0), torch.zeros_like(m)  # a normal law: exactly
        return x, m
