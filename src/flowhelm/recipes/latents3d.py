"""Solids by formula, with a text each: what `examples/latents3d.py` trains its tri-planes on. Of flowhelm's own making.

A text has a size and one or two kinds, the upper one first: `large torus`, `small sphere box` (a sphere on a box).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..priors.triplane import depths, grid

KINDS = ("sphere", "box", "torus")
WORDS = ("small", "large", *KINDS)
POINTS = 1024


class Solids(NamedTuple):
    """Solids of one or two parts in [-1, 1]^3, z up.

    Attributes:
        large: `(n,)` bool. kind: of the upper and of the lower part `(n, 2)`, -1 for none.
        centre, size: of each part `(n, 2, 3)`. A sphere has a radius, a box half sides, a torus, which lies flat, a radius and that of its
            tube.
    """

    large: Tensor
    kind: Tensor
    centre: Tensor
    size: Tensor

    def texts(self) -> list[str]:
        return [
            " ".join([WORDS[int(big)], *(KINDS[k] for k in kinds if k >= 0)])
            for big, kinds in zip(self.large, self.kind.tolist(), strict=True)
        ]


def solids(n: int, generator: torch.Generator) -> Solids:
    """n of them; half have two parts."""
    some = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    large, two = some(n) < 0.5, some(n) < 0.5
    kind = torch.randint(3, (n, 2), generator=generator)
    kind[:, 1] = torch.where(two, kind[:, 1], -1)
    scale = torch.where(large, 0.52, 0.32) * (0.88 + 0.24 * some(n)) * torch.where(two, 0.85, 1.0)
    centre = 0.3 * some(n, 1, 3) - 0.15 + torch.zeros(n, 2, 3)
    height = torch.tensor([0.8, 0.6, 0.35])[kind.clamp(min=0)] * scale[:, None]  # how far its middle is from the joint
    centre[..., 2] += torch.where(two[:, None], height * torch.tensor([1.0, -1.0]), 0.0)
    ball, box = torch.ones(n, 2, 3), 0.6 + 0.35 * some(n, 2, 3)
    ring = torch.stack([torch.full((n, 2), 0.85), 0.22 + 0.16 * some(n, 2), torch.ones(n, 2)], -1)
    size = torch.where((kind == 0)[..., None], ball, torch.where((kind == 1)[..., None], box, ring))
    return Solids(large, kind, centre, size * scale[:, None, None])


def distance(these: Solids, points: Tensor) -> Tensor:
    """To the surface, negative inside, `(n, m)`; at points `(m, 3)`, or `(n, m, 3)`. Of two parts, to the nearer."""
    found = torch.full((2, len(these.kind), points.shape[-2]), torch.inf, dtype=points.dtype)
    points = points.expand(len(these.kind), *points.shape[-2:])
    for part in range(2):
        for kind in range(len(KINDS)):
            rows = (these.kind[:, part] == kind).nonzero()[:, 0]
            p, size = points[rows] - these.centre[rows, part, None], these.size[rows, part, None]
            if KINDS[kind] == "sphere":
                apart = p.norm(dim=-1) - size[..., 0]
            elif KINDS[kind] == "box":
                q = p.abs() - size
                apart = q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)
            else:
                apart = torch.hypot(torch.hypot(p[..., 0], p[..., 1]) - size[..., 0], p[..., 2]) - size[..., 1]
            found[part, rows] = apart.to(found)
    return found.amin(0)


def occupancy(these: Solids, points: Tensor, size: int) -> Tensor:
    """In [0, 1], soft over half a cell of a grid of `size`."""
    return torch.sigmoid(-2 * size * distance(these, points))


class Pool(NamedTuple):
    """Solids made ready: views `(n, 6, s, s)`, points `(n, POINTS, 3)`, their occupancies, and what of a grid of s / 2 is occupied."""

    these: Solids
    views: Tensor
    points: Tensor
    inside: Tensor
    coarse: Tensor


def pool(n: int, generator: torch.Generator, *, size: int = 32) -> Pool:
    """n solids; half of the points are anywhere, half near a surface."""
    these, cells = solids(n, generator), grid(size)
    views, near, coarse = [], [], []
    points = 2 * torch.rand(n, POINTS, 3, generator=generator) - 1
    for rows in torch.arange(n).split(32):
        apart = distance(Solids(*(each[rows] for each in these)), cells)
        volume = torch.sigmoid(-2 * size * apart).view(-1, 1, size, size, size)
        views.append(depths(volume[:, 0]))
        coarse.append(fn.avg_pool3d(volume, 2)[:, 0] > 0.5)
        edge = apart.abs() + 0.05 * torch.rand(apart.shape, generator=generator)
        near.append(cells[edge.topk(POINTS // 2, largest=False, sorted=False).indices])
    jitter = (2 * torch.rand(n, POINTS // 2, 3, generator=generator) - 1) / size
    points[:, : POINTS // 2] = torch.cat(near) + jitter
    inside = torch.cat([occupancy(Solids(*(e[r] for e in these)), points[r], size) for r in torch.arange(n).split(256)])
    return Pool(these, torch.cat(views), points, inside, torch.cat(coarse))
