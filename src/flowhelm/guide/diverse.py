"""Meaningful diversity: a group whose clean estimates repel each other. Cohen et al. 2024, arXiv:2310.16047, section 5.

    j     <- argmin_j |clean_i - clean_j|    over the other rows of i's group
    clean <- clean_i + scale sigma_t (clean_i - clean_j)    where their distance is at most `threshold`

Needs   flow; a batch of whole groups, each of `group` successive rows
Cost    none: no evaluation, no gradient
Paper   5 restorations of one measurement. Here it is an edit of the flow, so that it works under any method: the clean
        end moves and the state stays, which adds scale (clean_i - clean_j) to the velocity of the linear path. The
        paper has the noise level of the step's end in place of sigma_t, and its distance is |.| / entries; here it is
        the root mean square, so that a threshold means the same at every size. Estimates are not clamped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ..entry import Count, NonNegative, guarded
from ..flow import Flow, Wrapped
from ..path import at, ends_from_velocity
from ..shapes import State, Time


@dataclass(frozen=True, eq=False)
class Diverse(Wrapped):
    flow: Flow
    group: int
    scale: float
    threshold: float
    mask: Tensor | None

    def velocity(self, x: State, t: Time) -> State:
        if len(x) % self.group:
            raise ValueError(
                f"diverse: expected a multiple of {self.group} rows (whole groups), got {len(x)}; "
                "repeat each measurement `group` times"
            )
        v = self.flow.velocity(x, t)
        if self.group == 1 or self.scale == 0:
            return v
        clean = ends_from_velocity(self.path, v, x, t).clean
        c = at(self.path, t, x)
        # d v / d clean is rate / sigma at a given state, and clean moves by sigma: nothing to divide by
        rate = c.d_alpha * c.sigma - c.d_sigma * c.alpha
        return v + self.scale * rate * self._apart(clean)

    def _apart(self, clean: State) -> Tensor:
        """Each estimate less its nearest one in the group, 0 where they are far enough apart already."""
        seen = torch.ones_like(clean) if self.mask is None else self.mask.to(clean).expand_as(clean)
        rows = (seen * clean).unflatten(0, (-1, self.group))
        flat = rows.detach().flatten(2)
        # without matrix products: they are inexact for near rows, and differ with the batch
        far = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        far.diagonal(dim1=1, dim2=2).fill_(math.inf)
        distance, nearest = far.min(2)
        other = rows[torch.arange(len(rows), device=clean.device)[:, None], nearest]
        entries = seen.flatten(1).sum(1).view(-1, self.group)
        close = (distance <= self.threshold * entries.sqrt()).to(clean)
        return (close.view(*close.shape, *(1,) * (clean.ndim - 1)) * (rows - other)).flatten(0, 1)


@guarded
def diverse(
    flow: Flow,
    group: Count,
    *,
    scale: NonNegative,
    threshold: Annotated[float, Ge(0), Le(math.inf)] = math.inf,
    mask: Tensor | None = None,
) -> Flow:
    """Meaningful diversity: a group whose clean estimates repel each other. Cohen et al. 2024, arXiv:2310.16047, section 5.

    Args:
        group: rows i * group to (i + 1) * group - 1 repel each other; groups know nothing of each other. 1 changes nothing.
        scale: of the repulsion; 0 changes nothing.
        threshold: root-mean-square distance beyond which rows leave each other alone. Without it nothing but the prior holds
            a group together, and much of it leaves the prior.
        mask: 1 where rows may differ, 0 where they are known (inpainting): broadcast to `(b, *shape)`. Everywhere by default.

    Raises:
        ValueError: later, a batch that is not of whole groups.
    """
    return Diverse(flow, group, scale, threshold, mask)
