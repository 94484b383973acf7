"""RAAG: ratio-aware guidance, later MAMBO-G. Zhu et al. 2025, arXiv:2508.03442.

    ratio <- |given - without| / |without|    of each row
    w     <- 1 + (scale - 1) exp(-decay ratio)
    v     <- without + w (given - without)

Needs   a flow told of a condition: `flow.bind(labels, guidance=partial(guide.raag, scale=10.0))`
Cost    2 rows per row, in one call
Paper   10 steps; RAAG's code has scale 18 and decay 12 for SD3.5-large, MAMBO-G's in diffusers 10 and 8, as here.
        RAAG's code takes one norm over the whole batch, so that a row depends on its neighbours: here, as in
        MAMBO-G, each row has its own. Its README writes w = 1 + scale exp(-decay ratio); its code has scale - 1.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Le

from ..grad import per_row
from ..shapes import State, Time


def raag(
    given: State,
    without: State,
    t: Time,
    *,
    scale: float = 10.0,
    decay: Annotated[float, Ge(0), Le(math.inf)] = 8.0,
) -> State:
    """Args:
    given, without: the velocity with the condition and without one, each `(b, *shape)`.
    t: of no effect; the ratio is largest at the start by itself.
    scale: of guidance where the two agree; 1 is the conditional velocity.
    decay: how fast guidance fades as they differ: 0 is `cfg`, infinity the conditional velocity.
    """
    finite = torch.finfo(given.dtype)
    length = without.flatten(1).norm(dim=1).clamp(min=finite.tiny)
    # kept off 0 and infinity, where an infinite or a zero decay would give 0 * inf
    ratio = ((given - without).flatten(1).norm(dim=1) / length).clamp(finite.tiny, finite.max)
    return given + per_row((scale - 1) * (-decay * ratio).exp(), given) * (given - without)
