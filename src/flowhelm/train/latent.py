"""Flow matching in latent space. Dao et al. 2023 (LFM), arXiv:2307.08698.

    once:   latents <- cached(codec, images);  codec <- standardized(codec, latents);  latents <- codec.normalize(latents)
    train:  fit(NetFlow(net, shape of a latent), flow_matching, shuffled(latents, *conditions, batch=...))
    sample: LatentFlow(flow, codec); its decode gives pictures

Needs   a trained auto-encoder (`codec.Codec`)
Cost    1 encoding of the set; then that of `flow_matching` on states as small as the latents
Paper   Its latents are samples of the encoder's posterior times one number; here what `codec.encode` gives, standardized by
        channel. Its velocity has 1 - 1e-5 for 1 (a floor of noise): left out. Labels go to the network as anywhere else;
        masks and semantic maps are further channels of its input, `Concatenated` (section 4).
        W2(pictures) <= sqrt(E|x - decode(encode(x))|^2) + Lip(decode) W2(latents): both terms show in tests/train.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from ..codec import Codec


@torch.no_grad()
def cached(codec: Codec, images: Tensor, *, batch: int = 32, device: torch.device | str = "cpu") -> Tensor:
    """The latents of a set of pictures `(n, c, h, w)`, uint8 (0..255, brought to [-1, 1]) or floating point in [-1, 1].

    Args:
        batch: pictures encoded at a time. device: where; the latents `(n, *codec.shape(h, w))` come back to the CPU.
    """
    if batch < 1 or len(images) < 1:
        raise ValueError(
            f"cached: expected at least 1 picture and a batch of at least 1, got {len(images)} and {batch}"
        )
    parts = []
    for rows in images.split(batch):
        x = rows.to(device)
        parts.append(codec.encode(x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x).cpu())
    return torch.cat(parts)


class Concatenated(nn.Module):
    """A network that is told maps: the first `maps` conditions are joined to the state's channels, the others handed on.

    Args:
        net: `net(x, t, *condition)` with as many input channels as state and maps have together. It may give as many out
            (`UNet` does): the state's come first and are kept.
        maps: conditions `(b, c, h, w)` of the state's height and width; see `masked` and `semantic`.
    """

    def __init__(self, net: nn.Module, maps: int = 1):
        super().__init__()
        self.net, self.maps = net, maps

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        maps, told = condition[: self.maps], condition[self.maps :]
        if len(maps) < self.maps or any(m.shape[2:] != x.shape[2:] for m in maps):
            raise ValueError(
                f"Concatenated: expected {self.maps} maps of size {tuple(x.shape[2:])} first among the conditions, got "
                f"{[tuple(c.shape) for c in condition]}; bind them (all of them: a null is a map too)"
            )
        return self.net(torch.cat([x, *(m.to(x) for m in maps)], dim=1), t, *told)[:, : x.shape[1]]


@torch.no_grad()
def masked(codec: Codec, images: Tensor, known: Tensor) -> Tensor:
    """The map of inpainting `(b, latent channels + 1, h', w')`: the latent of the known part, and where it is known.

    Args:
        images: `(b, c, h, w)` in [-1, 1]. known: `(b, 1, h, w)`, 1 known and 0 missing (set to grey, 0).

    A latent pixel is known by the share of its pixels that are.
    `masked(codec, zeros, zeros)` of one picture is a null: nothing known.
    """
    known = known.to(images)
    if known.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"masked: expected a mask {(len(images), 1, *images.shape[2:])} of 0 and 1, got {tuple(known.shape)}"
        )
    latent = codec.encode(images * known)
    size = latent.shape[-2], latent.shape[-1]
    return torch.cat([latent, fn.adaptive_avg_pool2d(known, size).to(latent)], dim=1)


def semantic(labels: Tensor, classes: int, size: tuple[int, int]) -> Tensor:
    """A map of classes `(b, h, w)` int64 in 0..classes-1 as channels `(b, classes, *size)`: each class's share of a latent pixel.

    The paper gives its map as many channels as the latent; one for each class needs no further network. A null is all zeros.
    """
    if labels.ndim != 3 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"semantic: expected labels (b, h, w) in 0..{classes - 1}, got {tuple(labels.shape)}")
    return fn.adaptive_avg_pool2d(fn.one_hot(labels, classes).movedim(-1, 1).float(), size)
