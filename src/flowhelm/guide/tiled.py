"""Large pictures through a convolutional network, tile by tile, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from ..entry import Count, guarded
from ..flow import Flow, Wrapped
from ..shapes import State, Time


@dataclass(frozen=True, eq=False)
class Tiled(Wrapped):
    flow: Flow
    tile: int
    overlap: int

    def velocity(self, x: State, t: Time) -> State:
        height, width = x.shape[-2:]
        out = None
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                y, z = max(top - self.overlap, 0), max(left - self.overlap, 0)
                bottom, right = min(top + self.tile, height), min(left + self.tile, width)
                v = self.flow.velocity(x[..., y : bottom + self.overlap, z : right + self.overlap], t)
                if out is None:
                    out = v.new_empty(x.shape)
                out[..., top:bottom, left:right] = v[..., top - y : bottom - y, left - z : right - z]
        assert out is not None
        return out


@guarded
def tiled(flow: Flow, tile: Count, *, reach: Annotated[int, Ge(0)], stride: Count) -> Flow:
    """Cuts the network call into tiles of `tile` x `tile` pixels and joins the results; the rest of a method sees the whole picture.
    flowhelm's own.

    Exact (not blended) for a network without spatial statistics or attention: each tile is evaluated with a margin of at
    least `reach` pixels, the radius of the receptive field, and tiles start at multiples of `stride`, the network's
    total down-sampling, so that pooled grids agree. Cost: (1 + 2 reach / tile)^2 as many pixels.

    Args:
        tile: in pixels; rounded up to a multiple of stride. reach, stride: of the network (`UNet.reach`, `UNet.stride`).
    """
    up = lambda n: -(-n // stride) * stride  # noqa: E731
    return Tiled(flow, up(tile), up(reach))
