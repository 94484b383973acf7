"""Solids as three planes of features: a feed-forward encoder, a small decoder and a renderer, as a `Codec`.

    views   (b, 6, n, n): along z, y and x, the depth of the front and of the back, in [-1, 1]; a ray that meets nothing has 1 and -1
    encode  each view by the same small network -> planes xy, xz, yz of features, joined as channels: (b, 3 c, n / 2, n / 2)
    at      logit(p) = network(features of the three planes at the shadows of p),   bilinear between their pixels
    decode  occupancies o on a grid -> views:   depth = sum_k T_k o_k z_k + T_end,   T_k = product over j < k of (1 - o_j)

All is differentiable. Since views are pictures and planes a latent, a `LatentFlow` over them is a prior over solids that draws and restores
like any other: from one view alone, for instance.

Sources: tri-planes, Chan et al. 2022, arXiv:2112.07945; as latents of a flow, Wizadwongsa et al. 2025, arXiv:2501.00651.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

AXES = ((0, 1), (0, 2), (1, 2))
"""Of a plane: the directions of its rows and of its columns."""


class TriPlane(nn.Module):
    """A codec of solids in [-1, 1]^3.

    Args:
        channels: features of each plane. side: of a plane; views have twice as many pixels. width: of the encoder. hidden: of the decoder.
    """

    def __init__(self, channels: int = 6, side: int = 16, width: int = 24, hidden: int = 48):
        super().__init__()
        self.channels, self.side = channels, side
        self.encoder = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.SiLU(), nn.Conv2d(2 * width, channels, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(3 * channels, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def encode(self, image: Tensor) -> Tensor:
        """Views `(b, 6, n, n)` -> planes `(b, 3 c, n / 2, n / 2)`. ValueError of other views."""
        if image.ndim != 4 or image.shape[1:] != (6, 2 * self.side, 2 * self.side):
            raise ValueError(
                f"TriPlane: expected views (b, 6, {2 * self.side}, {2 * self.side}), got {tuple(image.shape)}; render them with depths"
            )
        return self.encoder(image.unflatten(1, (3, 2)).flatten(0, 1)).unflatten(0, (-1, 3)).flatten(1, 2)

    def at(self, latent: Tensor, points: Tensor) -> Tensor:
        """Logits of the occupancy `(b, m)` at points `(b, m, 3)`, or `(m, 3)` for all. ValueError for planes of another size."""
        if latent.shape[1:] != (shape := self.shape(2 * self.side, 2 * self.side)):
            raise ValueError(
                f"TriPlane: expected planes (b, {', '.join(map(str, shape))}), got {tuple(latent.shape)}; "
                "they are of another codec: encode the views with this one"
            )
        points = points.expand(len(latent), *points.shape[-2:])
        where = torch.stack([points[..., [b, a]] for a, b in AXES], 1).flatten(0, 1)[:, :, None]
        planes = latent.unflatten(1, (3, self.channels)).flatten(0, 1)
        found = fn.grid_sample(planes, where.to(planes), padding_mode="border", align_corners=False)[..., 0]
        out: Tensor = self.decoder(found.unflatten(0, (-1, 3)).flatten(1, 2).transpose(1, 2))
        return out[..., 0]

    def volume(self, latent: Tensor, size: int, turn: Tensor | None = None) -> Tensor:
        """Occupancies in [0, 1] of a cubic grid, `(b, size, size, size)`; of the solid turned by `turn` `(3, 3)`."""
        points = grid(size).to(latent)
        return (
            self.at(latent, points if turn is None else points @ turn.to(latent)).sigmoid().view(-1, size, size, size)
        )

    def decode(self, latent: Tensor, size: int | None = None, turn: Tensor | None = None) -> Tensor:
        """Planes -> views `(b, 6, n, n)`, n = `size` or that of the encoder's; differentiable."""
        return depths(self.volume(latent, size or 2 * self.side, turn))

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        if height != width or height != 2 * self.side:
            raise ValueError(f"TriPlane: expected views of {2 * self.side} x {2 * self.side}, got {height} x {width}")
        return 3 * self.channels, self.side, self.side


def grid(size: int) -> Tensor:
    """The middles of the cells of [-1, 1]^3: `(size^3, 3)`, z fastest."""
    line = middles(size)
    return torch.cartesian_prod(line, line, line)


def middles(size: int) -> Tensor:
    return (2 * torch.arange(size) + 1) / size - 1


def depths(volume: Tensor) -> Tensor:
    """Orthographic views `(b, 6, n, n)` of occupancies `(b, n, n, n)` along z, y and x: depths of the front and of the back."""
    z = middles(volume.shape[-1]).to(volume)
    views = []
    for axis in (3, 2, 1):
        o = volume.movedim(axis, -1)
        views += [_depth(o, z), -_depth(o.flip(-1), z)]  # from behind, the same line is walked the other way
    return torch.stack(views, 1)


def _depth(o: Tensor, z: Tensor) -> Tensor:
    passed = (1 - o).cumprod(-1)
    before = fn.pad(passed[..., :-1], (1, 0), value=1.0)
    return (before * o * z).sum(-1) + passed[..., -1]


def silhouettes(volume: Tensor) -> Tensor:
    """The share of each ray that is stopped, `(b, 3, n, n)` in [0, 1], along z, y and x."""
    return torch.stack([1 - (1 - volume).prod(axis) for axis in (3, 2, 1)], 1)


def shaded(volume: Tensor) -> Tensor:
    """Pictures `(b, 1, n, n)` in [-1, 1], seen along -z, of occupancies `(b, n, n, n)`: normals in the light of a lamp, on white."""
    n = volume.shape[-1]
    front = _depth(volume, middles(n).to(volume))
    there = 1 - (1 - volume).prod(-1)
    slopes = torch.gradient(front, spacing=2 / n, dim=(1, 2))
    normal = fn.normalize(torch.stack([slopes[0], slopes[1], torch.ones_like(front)], 1), dim=1)
    lamp = fn.normalize(torch.tensor([-0.5, 0.4, 0.8]), dim=0).to(volume)
    light = 0.15 + 0.85 * torch.einsum("bchw,c->bhw", normal, lamp).clamp(min=0)
    grey = there * light + (1 - there)
    return (2 * grey - 1)[:, None]
