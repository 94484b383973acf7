"""How strong the noise in a photograph is, for whoever does not know it.

    std = noise_level(picture)                      # (1, c, h, w) in [-1, 1], as a file of 8 or 16 bits holds it
    std = noise_level(picture, one_call(flow))      # with a prior, which corrects what clipping took

In colour: the smallest eigenvalues of the covariance of patches (Chen, Zhu, Heng 2015, ICCV), for in photographs the fine colour
contrasts hold nothing but noise. Clipping takes noise away near black and white, so patches far from both are looked at, and the
level is the one that, clipped, leaves the variance that was found. In grey fine contrasts are texture, too: of the patches with the least
coarse contrast, the fine one is taken; in white noise the two are independent, so that the choice does not bias it.
The noise must be white: what JPEG has smoothed is not seen; of a JPEG file see `flowhelm.compression.noise_before`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .flow import Flow

Denoise = Callable[[Tensor, float], Tensor]
"""(picture `(1, c, h, w)`, standard deviation of its noise) -> E[clean]."""
SIDE = 1024
"""Of the middle of a picture that is looked at: more tells nothing more."""
LEVEL = 2 / 255
"""One of 256, in [-1, 1]."""
_PATCHES = 60_000
_FINE = 8


def one_call(flow: Flow) -> Denoise:
    """The denoiser that a prior over pixels is, for pictures in [-1, 1]: its mean of the clean picture, in one evaluation."""
    denoiser = flow.as_denoiser()

    @torch.no_grad()
    def denoise(picture: Tensor, std: float) -> Tensor:
        mean: Tensor = denoiser((picture + 1) / 2, std / 2)
        return 2 * mean - 1

    return denoise


def noise_level(picture: Tensor, denoise: Denoise | None = None) -> float:
    """The standard deviation of the noise in `(1, c, h, w)`; 0 where there is none.

    Args:
        denoise: a denoiser of such pictures; without one, means of patches stand for the clean picture.
    """
    if picture.dim() != 4 or len(picture) != 1 or picture.shape[1] not in (1, 3):
        raise ValueError(f"noise_level: expected one picture (1, c, h, w) with c 1 or 3, got {tuple(picture.shape)}")
    top, left = ((side - min(side, SIDE)) // 2 for side in picture.shape[-2:])
    middle = picture.detach().cpu().float()[..., top : top + SIDE, left : left + SIDE]
    if min(middle.shape[-2:]) < 2 * _FINE:
        return 0.0  # too few pixels to tell
    colour = middle.shape[1] == 3 and not torch.equal(middle[:, 0], middle[:, 1])
    return _of_colour(middle, denoise) if colour else _of_grey(middle[:, :1])


def _of_colour(picture: Tensor, denoise: Denoise | None, side: int = 5) -> float:
    patches = _patches(picture, side)
    flat, clean, std = patches.flatten(1), patches.mean((2, 3), keepdim=True), 0.0
    for _ in range(4):
        room = (1 - clean.mean((2, 3)).abs()).amin(1)  # to black or white
        far = max(min(len(flat), 5000), len(flat) // 2, int((room > std).sum())) if std else len(flat)
        kept = room.topk(far).indices
        found = math.sqrt(max(_smallest(flat[kept]) - LEVEL**2 / 12, 0))  # rounding is no noise
        if found < LEVEL / 4:
            return found
        std, before = _unclipped(clean[kept[:: max(1, far // 400)]], found), std
        if abs(std - before) < 0.004 * std:
            break
        if denoise is not None and std > 2 * LEVEL:  # weaker noise is clipped nowhere else than the picture is
            clean = _patches(denoise(picture, std).clamp(-1, 1), side)
    return std


def _of_grey(picture: Tensor, share: float = 0.05) -> float:
    patches = _patches(picture, _FINE).flatten(0, 1)
    dct, order = _cosines(patches), _order()
    energy = (dct @ patches @ dct.T).square()
    coarse = energy[:, (order > 0) & (order < _FINE - 1)].mean(1)
    fine, mean, std = energy[:, order > _FINE].mean(1), patches.mean((1, 2)), 0.0
    for _ in range(3):
        room = 1 - mean.abs()
        far = room.topk(max(min(len(room), 1000), len(room) // 2, int((room > 2 * std).sum()))).indices
        flat = far[coarse[far].topk(max(min(len(far), 50), int(share * len(far))), largest=False).indices]
        found = math.sqrt(max(float(fine[flat].double().mean()) - LEVEL**2 / 12, 0))
        if found < LEVEL / 4:
            return found
        std = _unclipped(mean[flat], found)
    return std


def _cosines(like: Tensor) -> Tensor:
    place = torch.arange(float(_FINE)).to(like)
    dct = torch.cos(math.pi * place[:, None] * (place + 0.5) / _FINE) * math.sqrt(2 / _FINE)
    dct[0] /= math.sqrt(2)
    return dct


def _order() -> Tensor:
    place = torch.arange(_FINE)
    return place[:, None] + place


def _patches(picture: Tensor, side: int) -> Tensor:
    """Some of the patches `(n, c, side, side)` of one picture, evenly spread."""
    height, width = picture.shape[-2:]
    stride = max(2, math.ceil(math.sqrt(height * width / _PATCHES)))
    return picture[0].unfold(1, side, stride).unfold(2, side, stride).permute(1, 2, 0, 3, 4).flatten(0, 1)


def _smallest(rows: Tensor) -> float:
    """The variance in directions where rows `(n, d)` hold noise alone: the largest share of eigenvalues whose mean is their median."""
    rows = rows.double()
    values = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0))
    for count in range(len(values), 1, -1):
        some = values[:count]
        if (some > some.mean()).sum() >= (some < some.mean()).sum():
            return float(some.mean())
    return float(values[0])


def _unclipped(clean: Tensor, found: float) -> float:
    """The standard deviation of noise which, added to pictures and clipped to [-1, 1], leaves `found`; `clean` is E[clipped]."""
    low, high, known = found, 3 * found, clean.flatten().double()
    for _ in range(14):
        std = (low + high) / 2
        # clipping has moved the mean, too: what is left of the variance is looked up by it
        mean, left = _clipped(torch.linspace(-1 - 2 * std, 1 + 2 * std, 1001, dtype=torch.float64), std)
        after = torch.searchsorted(mean, known).clamp(1, len(mean) - 1)
        share = (known - mean[after - 1]) / (mean[after] - mean[after - 1])
        less = float(torch.lerp(left[after - 1], left[after], share.clamp(0, 1)).mean()) < found**2
        low, high = (std, high) if less else (low, std)
    return (low + high) / 2


def _clipped(x: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of N(x, std^2) clipped to [-1, 1]."""
    a, b = (-1 - x) / std, (1 - x) / std
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    at_a, at_b = (torch.exp(-v.square() / 2) / math.sqrt(2 * math.pi) for v in (a, b))
    inside = 1 - below - above
    mean = above - below + x * inside + std * (at_a - at_b)
    square = below + above + (x**2 + std**2) * inside + 2 * x * std * (at_a - at_b) + std**2 * (a * at_a - b * at_b)
    return mean, square - mean**2
