"""Twisted proposals: where particles are sent instead of where the prior's random move sends them, and what that costs in weight.

    x' ~ N(m', c)    m, c the mean and variance of the move, m' its mean if the clean estimate were a better one
    log w <- log w + log N(x'; m, c) - log N(x'; m', c)

    "prior"       the move itself, of whatever law; it costs nothing
    "gradient"    better by the gradient in x of r = level * strength * reward(decode(clean)): psi is exp r in TDS
                  (arXiv:2306.17775) and DAS. `restore.tds` softens the likelihood instead of tempering it. 1 backward through
                  network, decoder and reward for each evaluation
    "control"     the plan of MPC-Flow for one step (`control.planned`): not in a paper. Backwards through decoder and reward
                  only, none for a linear measurement of pixels

Without tempering a proposal can be worse than none, since early estimates are poor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .budget import unwatched
from .control import Energy, planned
from .flow import Flow
from .grad import per_row
from .inner import Inner
from .particles import best
from .path import Ends, tilted
from .rng import Noise
from .shapes import State, Time
from .solve import look, valued
from .step import Reward
from .transition import Moments, Transition, shifted

Proposal = Literal["prior", "gradient", "control"]


class Sight(NamedTuple):
    """What is seen from a state: its ends, the value `(rows,)` of the picture in sight, and the value's gradient in the state."""

    ends: Ends
    value: Tensor
    pull: Tensor

    def rows(self, index: Tensor) -> Sight:
        return Sight(self.ends.rows(index), self.value[index], self.pull[index])

    def told(self, k: int) -> dict[str, Tensor]:
        """For the `info` of a step: the rewards of k particles per prompt, and the row of each prompt's highest."""
        return {"reward": self.value, "best": best(self.value.view(-1, k))}


@dataclass(frozen=True, eq=False)
class Twist:
    """Moves and looks of particles.

    Args:
        flow, reward: by which particles are weighed.
        proposal, strength: see the module. transition: the move without a proposal. moments: mean and std of the one with.
        inner, energy: how a control is found, and what it costs.
    """

    flow: Flow
    reward: Reward
    proposal: Proposal
    strength: float
    transition: Transition
    moments: Moments
    inner: Inner
    energy: Energy

    def begin(self, x: State, t: Time, level: Tensor, carried: Mapping[str, Tensor] | None) -> Sight:
        """From the first state; its value is that of a run gone on with, else none. A gradient of which no share counts is 0."""
        value = torch.full((len(x),), -torch.inf, dtype=torch.float64) if carried is None else carried["reward"]
        if self.proposal == "gradient" and level.any():
            return Sight(*valued(self.flow, self.reward, x, t))._replace(value=value)
        return Sight(look(self.flow, x, t), value, torch.zeros_like(x))

    def seen(self, x: State, t: Time, value: Tensor, rate: bool) -> Sight:
        """From x at t; where the reward is not asked (`rate`), the last `value` stands."""
        if self.proposal == "gradient":
            return Sight(*valued(self.flow, self.reward, x, t))
        ends = look(self.flow, x, t)
        return Sight(ends, self.reward(self.flow.decode(ends.clean)) if rate else value, torch.zeros_like(x))

    def moved(
        self, x: State, s: Time, t: Time, noise: Noise, sight: Sight, level: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """The next states, and what is to be added to log w: `(rows,)`.

        Args:
            level: share of the strength that counts, `(prompts,)`.
        """
        ends = sight.ends
        if self.proposal == "prior":
            return self.transition(self.flow, x, s, t, noise, ends), 0.0
        mean, std = self.moments(self.flow, x, s, t, ends)
        better = ends
        if std > 0 and level.any() and self.flow.path(s).alpha > 0:
            factor = self.strength * level
            if self.proposal == "gradient":
                # a proposal may be any: where there is no gradient, it is the prior's move
                pull = sight.pull.nan_to_num(0.0, 0.0, 0.0)
                rise = per_row(factor.repeat_interleave(len(x) // len(level)), x) * pull
                better = tilted(self.flow.path, ends, rise, s)
            else:
                better = planned(
                    self.flow, unwatched(self.reward), x, s, ends, float(factor[0]), self.energy, self.inner
                )
        return shifted(mean, std, self.moments(self.flow, x, s, t, better)[0] - mean, noise)
