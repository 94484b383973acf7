"""Guidance by a reward, as an edit of the velocity. GLASS, Holderrieth et al. 2025, arXiv:2509.25170, section 4.3.

    V     <- reward(decode(clean)),    clean = E[clean | x_t]
    clean <- clean + strength (sigma^2 / alpha) grad_x V

It acts wherever the flow is asked: under `transition.glass` at every state of the inner flow, which is guidance inside; under
`steer.fk` for every particle, with no price in the weights, as the paper has it (`proposal="gradient"` of `fk` guides from
outside, at its price).

Needs   a differentiable reward; for through=True a flow with gradient
Cost    1 backward through reward and decoder where start < t < stop, with `through` through the network, too
Paper   strength 0.4 lambda, in 0.2 < t < 0.7, the gradient at a detached clean end: through=False, where it stands for that in x as it
        is, without alpha / sigma^2 Cov[clean | x_t]. With V = log E[exp(reward) | x_t] the flow is that of prior exp(reward); the
        reward of the estimate is that V up to a constant only for a normal prior and a linear reward. At t = 0, where
        the state tells nothing, nothing is added.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..entry import Fraction, guarded
from ..flow import Flow, Wrapped
from ..grad import per_row, value_and_grad
from ..path import tilted, velocity
from ..shapes import State, Time
from ..solve import valued
from ..step import Reward


@dataclass(frozen=True, eq=False)
class Rewarded(Wrapped):
    flow: Flow
    reward: Reward
    strength: float
    start: float
    stop: float
    through: bool

    def velocity(self, x: State, t: Time) -> State:
        inside = (self.start < t) & (t < self.stop)
        if self.strength == 0 or not inside.any():
            return self.flow.velocity(x, t)
        if self.through:
            ends, _, pull = valued(self.flow, self.reward, x, t)
        else:
            ends = self.flow.ends(x, t).detach()
            pull = value_and_grad(lambda clean: self.reward(self.flow.decode(clean)), ends.clean)[1]
        weight = (self.strength * inside.to(x)).expand(len(x))
        return velocity(self.path, tilted(self.path, ends, per_row(weight, x) * pull, t), t)


@guarded
def rewarded(
    flow: Flow,
    reward: Reward,
    *,
    strength: float = 1.0,
    start: Fraction = 0.2,
    stop: Fraction = 0.7,
    through: bool = True,
) -> Flow:
    """Guidance by a reward, inside whatever asks the flow. GLASS, Holderrieth et al. 2025, arXiv:2509.25170, section 4.3.

    Args:
        reward: pictures `(b, c, h, w)` to numbers `(b,)`, differentiable.
        strength: factor of the reward; 0 changes nothing, 1 is the tilt by exp(reward).
        start, stop: guidance acts where start < t < stop.
        through: the gradient goes through the network; False takes that at the clean estimate for it, as the paper does, and spares
            the backward pass.

    The shift is a constant for whoever differentiates the edited velocity.
    """
    return Rewarded(flow, reward, strength, start, stop, through)
