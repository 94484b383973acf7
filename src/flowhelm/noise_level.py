"""How strong the noise in a photograph is, for whoever does not know it.

    std = noise_level(picture)                      # (1, c, h, w) in [-1, 1], as a file of 8 or 16 bits holds it
    std = noise_level(picture, one_call(flow))      # with a prior, which corrects what clipping took

Of the patches with the least coarse contrast the fine one is taken; in white noise the two are independent, so that the choice does not
bias it. The patches are taken from the dark and the bright parts alike, since noise grows with the light. What texture they have is left
out by the smallest eigenvalues of the covariance (Chen, Zhu, Heng 2015, ICCV, who take whole patches, and all of them: texture then
counts as noise), for in photographs few colours vary finely. Clipping takes noise away near black and white, so patches far from both are
looked at, and the level is the one that, clipped, leaves the variance that was found.
The noise must be white: what JPEG has smoothed is not seen; of a JPEG file see `flowhelm.compression.noise_before`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .clipping import of_mean
from .flow import Flow

Denoise = Callable[[Tensor, float], Tensor]
"""(picture `(1, c, h, w)`, standard deviation of its noise) -> E[clean]."""
SIDE = 1024
"""Of the middle of a picture that is looked at: more tells nothing more."""
LEVEL = 2 / 255
"""One of 256, in [-1, 1]."""
FAR = 8
"""Pixels beyond which noise is not alike: a block of JPEG's."""
_PATCHES, _SIDE = 60_000, 8
_COARSE, _FINE = 7, 11
"""Orders of a patch's cosines, across and down added: up to where they are coarse, and from where on fine."""
_SHARE, _LEAST, _LIGHTS = 0.05, 1000, 4
"""How many patches are taken: such a share of each of so many ranges of light, at least so many in all; more of noise that is stronger
than 5 levels, in which texture counts for less."""


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
    if min(middle.shape[-2:]) < 2 * _SIDE:
        return 0.0  # too few pixels to tell
    grey = bool((middle == middle[:, :1]).all())
    return _of_pixels(middle[:, :1], None) if grey else _of_pixels(middle, denoise)


def repetition(residual: Tensor) -> float:
    """How far what a denoiser took out of a picture, `(1, c, h, w)`, repeats itself: the largest autocorrelation at a distance of more than
    8 pixels, between 0 and 1. Of noise it is near 0, of stripes and cloth near 1."""
    mean = residual.mean(1)[0]
    mean = mean - mean.mean()
    along = torch.fft.ifft2(torch.fft.fft2(mean).abs().square()).real
    if not along[0, 0] > 0:
        return 0.0
    down, across = (torch.minimum(at := torch.arange(side), side - at) for side in along.shape)
    far = torch.maximum(down[:, None], across[None]) > FAR
    return float((along / along[0, 0])[far].abs().max()) if far.any() else 0.0


def _of_pixels(picture: Tensor, denoise: Denoise | None) -> float:
    patches = _patches(picture)
    uneven = ~_even(patches)  # at a frame, in a drawing, or clipped: noise leaves few patches that are even
    if uneven.float().mean() < 0.05:
        return 0.0  # a drawing: of a dark photograph, however much of it is black, more is left
    patches = patches[uneven]
    dct, order = _cosines(patches), _order()
    parts = dct @ patches @ dct.T
    coarse = parts[:, :, (order > 0) & (order <= _COARSE)].square().mean((1, 2))
    fine = parts[:, :, order >= _FINE].flatten(1)
    clean, std = patches.mean((2, 3), keepdim=True), 0.0
    for _ in range(4):
        mean = clean.mean((2, 3))
        room = (1 - mean.abs()).amin(1)  # to black or white
        far = max(min(len(fine), 5000), len(fine) // 2, int((room > std).sum())) if std else len(fine)
        kept = _flattest(coarse, mean.mean(1), room.topk(far).indices, max(1.0, std / (5 * LEVEL)))
        found = math.sqrt(max(_smallest(fine[kept]) - LEVEL**2 / 12, 0))  # rounding is no noise
        if found < LEVEL / 4:
            return found
        std, before = _unclipped(clean[kept[:: max(1, len(kept) // 400)]], found), std
        if abs(std - before) < 0.004 * std:
            break
        if denoise is not None and std > 2 * LEVEL:  # weaker noise is clipped nowhere else than the picture is
            clean = _patches(denoise(picture, std).clamp(-1, 1))[uneven]
    return std


def _even(patches: Tensor) -> Tensor:
    """Which of the patches `(n, c, 8, 8)` have a row or a column of one colour."""
    across, down = (patches.diff(dim=d).abs().amax((1, d)) == 0 for d in (3, 2))
    return (across | down).any(1)


def _flattest(coarse: Tensor, light: Tensor, far: Tensor, more: float) -> Tensor:
    """Those of the patches `far` with the least coarse contrast, as many dark as bright ones; `more` times the least share."""
    kept = []
    for part in far[light[far].argsort()].tensor_split(_LIGHTS):
        many = min(len(part), int(more * max(_LEAST // _LIGHTS, _SHARE * len(part))))
        kept.append(part[coarse[part].topk(many, largest=False).indices])
    return torch.cat(kept)


def _cosines(like: Tensor) -> Tensor:
    place = torch.arange(float(_SIDE)).to(like)
    dct = torch.cos(math.pi * place[:, None] * (place + 0.5) / _SIDE) * math.sqrt(2 / _SIDE)
    dct[0] /= math.sqrt(2)
    return dct


def _order() -> Tensor:
    place = torch.arange(_SIDE)
    return place[:, None] + place


def _patches(picture: Tensor) -> Tensor:
    """Some of the patches `(n, c, 8, 8)` of one picture, evenly spread."""
    height, width = picture.shape[-2:]
    stride = max(2, math.ceil(math.sqrt(height * width / _PATCHES)))
    return picture[0].unfold(1, _SIDE, stride).unfold(2, _SIDE, stride).permute(1, 2, 0, 3, 4).flatten(0, 1)


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
        _, left = of_mean(
            known, std
        )  # clipping has moved the mean, too: what is left of the variance is looked up by it
        low, high = (std, high) if float(left.mean()) < found**2 else (low, std)
    return (low + high) / 2
