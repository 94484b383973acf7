"""Where a method begins: from the source at t = 0, or from the degraded picture at the noise levels that its card asks for.

x, times = begin(restore.hqs, flow, y, 8, noise)
final = run(restore.hqs(flow, y, x, times))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from . import cards, grids
from .flow import PURE, Flow
from .known import USUAL
from .measure import LinearOperator, Measurement
from .rng import Noise
from .shapes import State, Times

HIGHEST = 49 / 127.5
"""The first noise level of a start from a picture, in [-1, 1]: DPIR's 49 of 255 (Zhang et al. 2021, arXiv:2008.13751)."""


def check(method: Callable[..., Any], levels: tuple[float, float], whose: str, start: float = 0.0) -> None:
    """That a method asks a prior for no more noise than it was made for.

    Args:
        levels: of the prior, `Flow.levels`; whose: its name.
        start: the time that the method begins at.

    Raises:
        ValueError: the method begins at the source, or at more noise than the prior knows.
    """
    most = levels[1]
    if cards.from_picture(method) or most >= PURE or (start > 0 and (1 - start) / start <= 1.05 * most):
        return
    name = getattr(method, "func", method).__name__
    raise ValueError(
        f"{name} begins with nothing but noise, and {whose} was trained for noise up to {most:.2g} only; "
        "choose a method that begins with the degraded picture: hqs, red or pnp_admm"
    )


def check_kind(method: Callable[..., Any], kind: str, whose: str) -> None:
    """That a method and a prior belong together.

    Args:
        kind: of the prior, `Flow.prior_kind`; whose: its name.

    Raises:
        ValueError: the method takes another kind.
    """
    wanted, name = cards.prior_kind(method), getattr(method, "func", method).__name__
    if wanted == kind:
        return
    what = {
        "flow": "a flow",
        "paired": "a flow with a regressor",
        "codec": "a compressor",
        "tokens": "a prior over tokens",
    }
    remedy = f"take the prior {USUAL[wanted][1]}" if wanted in USUAL else f"take the method {USUAL[kind][0]}"
    raise ValueError(f"{name} restores with {what[wanted]}, and {whose} is {what.get(kind, kind)}; {remedy}")


def begin(
    method: Callable[..., Any], flow: Flow, y: Measurement, steps: int, noise: Noise | None = None
) -> tuple[State, Times]:
    """The state `(b, *flow.shape)` and the grid `(steps + 1,)` that a method begins with. flowhelm's own.

    Args:
        method: any of `flowhelm.steer` or `flowhelm.restore`; its card says where it starts.
        noise: one stream per measurement; not needed for a start from a picture.

    Raises:
        ValueError: no noise for a start from the source; a measurement that is no picture for a start from a picture; a prior that
            was not made for the noise that the method begins with.
    """
    if not cards.from_picture(method) and noise is None:
        raise ValueError("begin: expected a Noise for a method that starts from the source, got None; pass noise=")
    check_kind(method, flow.prior_kind, getattr(flow, "name", "") or "this prior")
    check(method, flow.levels, getattr(flow, "name", "") or "this prior")
    return state(method, flow, y, noise or Noise(0, len(y.y))), grid(method, flow, steps, y)


def state(method: Callable[..., Any], flow: Flow, y: Measurement, noise: Noise) -> Tensor:
    """The state that a method begins with, one row for each stream of `noise`."""
    if not cards.from_picture(method):
        return flow.source(noise).to(y.y.device)
    with torch.no_grad():
        x = flow.encode(guess(y))
    return x.repeat_interleave(len(noise) // len(x), 0)


def grid(method: Callable[..., Any], flow: Flow, steps: int, y: Measurement) -> Tensor:
    """The times of a method: the prior's own, or noise levels that fall to what is left of the measurement's noise in a pixel, its std
    times the root of `Measurement.noise_share`; none that the prior was not made for.

    Where pixels are missing the paper of these levels (DPIR) falls to the std itself, and smooths away what was measured.
    """
    if not cards.from_picture(method):
        return flow.times(steps)
    (low, high), last = flow.levels, y.std * y.noise_share**0.5
    return grids.levels(steps, flow.path, min(max(HIGHEST, 2 * y.std, low), high), min(max(last, low), high))


@torch.no_grad()
def guess(y: Measurement) -> Tensor:
    """What one would guess of the clean picture `(b, c, h, w)` without a prior: the measurement with its holes filled.

    Missing pixels get a smooth surface, a small picture is enlarged, a margin continues the border. Where the measurement is no
    picture but linear, the mean given y under N(0, I).

    Raises:
        ValueError: a non-linear measurement that is no picture.
    """
    if not isinstance(y.operator, LinearOperator):
        if y.y.ndim != 4:
            raise ValueError(
                "guess: expected a measurement that is a picture to start from; use a method that does not"
            )
        return y.y
    spread = y.operator.A_dagger(y.y)
    if y.y.ndim != 4 or y.y.shape[1] > spread.shape[1]:
        return y.y if y.y.shape == spread.shape else y.prox(torch.zeros_like(spread), 1.0)
    margin = tuple(much - less for much, less in zip(spread.shape[-2:], y.y.shape[-2:], strict=True))
    if hasattr(y.operator, "crop"):
        return y.y if margin == (0, 0) else _continued(y.y, *margin)
    if margin == (0, 0):
        return filled(y.y, y.seen(len(y.y))).expand_as(spread)
    known = y.operator.A_dagger(torch.ones_like(y.y[:1]))
    if bool(((known - known.round()).abs() < 1e-4).all()) and bool((known.round() == 0).any()):
        return filled(spread, known.round())
    return fn.interpolate(y.y, spread.shape[-2:], mode="bicubic", align_corners=False, antialias=True).expand_as(spread)


def _continued(y: Tensor, rows: int, columns: int) -> Tensor:
    top, left = rows // 2, columns // 2
    return fn.pad(y, (left, columns - left, top, rows - top), mode="replicate")


def filled(picture: Tensor, known: Tensor, *, sweeps: int = 20) -> Tensor:
    """Missing pixels filled with a smooth surface `(b, c, h, w)`: a biharmonic one, solved from coarse to fine.

    Args:
        picture: `(b, c, h, w)`; what stands in its holes does not count.
        known: broadcast to it; above 0 where the picture is known.
        sweeps: of relaxation on every level; 20 come within 0.01 dB of the exact surface on 70 % missing pixels.
    """
    mask = (known > 0).to(picture).expand_as(picture)
    return picture if bool(mask.all()) else _filled(picture * mask, mask, sweeps)


def _filled(value: Tensor, mask: Tensor, sweeps: int) -> Tensor:
    height, width = value.shape[-2:]
    if min(height, width) <= 2:
        mean = value.sum((-1, -2), keepdim=True) / mask.sum((-1, -2), keepdim=True).clamp(min=1)
        return torch.where(mask > 0, value, mean)
    share = fn.avg_pool2d(mask, 2, ceil_mode=True, count_include_pad=False)
    halved = fn.avg_pool2d(value, 2, ceil_mode=True, count_include_pad=False) / share.clamp(min=0.1)
    coarse = _filled(torch.where(share > 0, halved, 0), (share > 0).to(value), sweeps)
    x = torch.where(mask > 0, value, fn.interpolate(coarse, (height, width), mode="bicubic", align_corners=False))
    for _ in range(sweeps):
        x = torch.where(mask > 0, value, x - 0.5 * _curved(_curved(x)))
    return x


def _curved(x: Tensor) -> Tensor:
    """x less the mean of its four neighbours; beyond the border the picture is continued."""
    wide = fn.pad(x, (1, 1, 1, 1), mode="replicate")
    around = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    return x - around / 4
