"""CFG: classifier-free guidance. Ho & Salimans 2022, arXiv:2207.12598, eq. 6, within an interval (arXiv:2404.07724).

    v <- given + (scale - 1) (given - without)    where start <= t < stop
    v <- given                                    elsewhere

Needs   a flow told of a condition: `flow.bind(labels, guidance=partial(guide.cfg, scale=2.0))`
Cost    2 rows per row, in one call
Paper   The paper's weight w is scale - 1. The interval is that of Kynkäänniemi et al. 2024, given there in noise levels
        sigma / alpha: on the linear path t = 1 / (1 + level). It changes the velocity only; both are computed anyway.
        Guidance is no sampler of given^scale without^(1 - scale). For normal laws of one covariance the flow's end is
        the law with mean m_without + scale (m_given - m_without), as for that product. For zero means and commuting
        covariances it has covariance S_given^scale S_without^(1 - scale), which is not that of the product.
"""

from __future__ import annotations

from ..entry import Fraction
from ..grad import per_row
from ..shapes import State, Time


def cfg(
    given: State, without: State, t: Time, *, scale: float = 2.0, start: Fraction = 0.0, stop: Fraction = 1.0
) -> State:
    """Args:
    given, without: the velocity with the condition and without one, each `(b, *shape)`.
    t: 0-dim or `(b,)`.
    scale: 1 is the conditional velocity to the bit, 0 the unconditional one, above 1 guidance.
    start, stop: guidance acts where start <= t < stop.
    """
    inside = (start <= t) & (t < stop)
    return given + per_row((scale - 1) * inside.to(given.dtype), given) * (given - without)
