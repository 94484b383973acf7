"""A law of one number as a histogram. Müller et al. 2022, arXiv:2112.10510, section 4: the Riemann distribution.

q(y) = softmax(logits)_k / (b_{k+1} - b_k)   inside bar k
the first and the last bar are half-normals that begin at their inner border, with their median at the outer one
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bars(nn.Module):
    """A density of one number as a histogram of bars with fixed borders: section 4's "Riemann distribution".

    Args:
        values: `(n,)`, many y of the prior; the borders are their quantiles, so that all bars are alike likely before data.
        bars: how many, at least 3.

    Raises:
        ValueError: fewer distinct values than bars, or fewer than 3 bars.
    """

    def __init__(self, values: Tensor, bars: int = 200):
        super().__init__()
        borders = torch.quantile(values.double().flatten()[: 2**24], torch.linspace(0, 1, max(bars, 1) + 1).double())
        if bars < 3 or not (borders.diff() > 0).all():
            raise ValueError(f"Bars: expected at least 3 bars and more distinct values than bars, got {bars} bars")
        self.register_buffer("borders", borders.to(values))

    def _tails(self) -> tuple[Tensor, Tensor, Tensor]:
        """Borders, widths, and the scales of the two half-normals."""
        borders = self.get_buffer("borders")
        width = borders.diff()
        return borders, width, width[[0, -1]] / torch.special.ndtri(torch.tensor(0.75).to(width))

    def log_density(self, logits: Tensor, y: Tensor) -> Tensor:
        """log q(y): logits `(..., bars)`, y `(...)` -> `(...)`."""
        borders, width, scale = self._tails()
        bar = torch.searchsorted(borders[1:-1], y.contiguous())
        out = -width.log()[bar]
        for tail, beyond in ((0, borders[1] - y), (len(width) - 1, y - borders[-2])):
            s = scale[min(tail, 1)]
            normal = 0.5 * torch.log(2 / torch.pi / s**2) - beyond**2 / (2 * s**2)
            out = torch.where(bar == tail, normal, out)
        return logits.log_softmax(-1).gather(-1, bar[..., None])[..., 0] + out

    def mean(self, logits: Tensor) -> Tensor:
        """`(..., bars)` -> `(...)`."""
        borders, width, scale = self._tails()
        centre = borders[:-1] + width / 2
        off = scale * (2 / torch.pi) ** 0.5
        centre = torch.cat([borders[1:2] - off[:1], centre[1:-1], borders[-2:-1] + off[1:]])
        return logits.softmax(-1) @ centre

    def quantile(self, logits: Tensor, level: float | Tensor) -> Tensor:
        """Where the distribution function is `level`, in (0, 1), a number or `(...)`; levels drawn uniformly give samples."""
        borders, width, scale = self._tails()
        p = logits.softmax(-1)
        level = torch.as_tensor(level, dtype=p.dtype, device=p.device).expand(p.shape[:-1])[..., None].contiguous()
        bar = torch.searchsorted(p.cumsum(-1), level).clamp(max=len(width) - 1)
        share = p.gather(-1, bar)
        part = ((level - p.cumsum(-1).gather(-1, bar) + share) / share).clamp(0, 1)
        first = borders[1] - scale[0] * torch.special.ndtri(1 - part / 2)
        last = borders[-2] + scale[1] * torch.special.ndtri((1 + part) / 2)
        inner = borders[bar] + part * width[bar]
        return torch.where(bar == 0, first, torch.where(bar == len(width) - 1, last, inner))[..., 0]
