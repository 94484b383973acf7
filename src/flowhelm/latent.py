"""Restoring through a decoder: what a codec cannot say, known pixels kept, and a start from the degraded picture.

    y     = latent.honest(flow, y, examples)                          # the codec's own error is noise, too
    x, ts = latent.warm(flow, y.operator.A_dagger(y.y), flow.times(28), 0.3, noise)
    final = run(steer.mpc_flow(flow, y, x, ts))
    image = latent.projected(y, flow.decode(final.x))                 # measured pixels exactly as they were measured

Measurements live in pixels and methods ask `flow.decode` for them, so the decoder is in the graph; nothing here is needed
for a method to run. For a prior over pixels the codec's error is 0 and the rest still holds.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .flow import Flow
from .measure import Measurement
from .path import mix
from .rng import Noise
from .shapes import Times


@torch.no_grad()
def codec_error(flow: Flow, pictures: Tensor) -> Tensor:
    """Root mean square of decode(encode(picture)) - picture, one per row `(b,)`, in the unit of pixels in [-1, 1]."""
    return (flow.decode(flow.encode(pictures)) - pictures).square().flatten(1).mean(1).sqrt()


@torch.no_grad()
def honest(flow: Flow, y: Measurement, pictures: Tensor) -> Measurement:
    """The measurement with the codec's error in its noise level: std^2 + mean |A(decode(encode(p))) - A(p)|^2.

    The nearest picture that a decoder can make is not the true one; a method that fits y to std then fits the codec's error
    with the latent. The error is taken as white, which it is not: it is larger at edges and in fine texture.

    Args:
        pictures: clean ones of the kind that is restored, `(n, c, h, w)` in [-1, 1], of the operator's size; in want of better,
            the degraded picture itself, brought to that size (it is smoother, and the error then underestimated).
    """
    error = y.operator.A(flow.decode(flow.encode(pictures))) - y.operator.A(pictures)
    return replace(y, std=math.sqrt(y.std**2 + float(error.square().mean())))


def projected(y: Measurement, picture: Tensor, error: float = math.inf) -> Tensor:
    """The picture nearest to `picture` `(b, c, h, w)` that fits the measurement; for a linear operator.

    Args:
        error: standard deviation of what is wrong with `picture`, per pixel. Infinite: picture + A^+ (y - A picture), so that
            measured pixels are exactly as measured, with their noise. Finite: the mean of the picture given y where picture is the
            truth + N(0, error^2), which weighs the two; `codec_error` is a fair choice.

    Raises:
        ValueError: a non-linear operator, or an error that is not above 0.
    """
    if not y.linear:
        raise ValueError(
            f"projected: expected a linear operator, got {type(y.operator).__name__}; its measurement cannot be kept exactly"
        )
    if not error > 0:
        raise ValueError(f"projected: expected an error above 0, got {error}")
    if math.isfinite(error):
        return y.prox(picture, error**2)
    return picture - y.operator.A_dagger(y.residual(picture))  # type: ignore[attr-defined]


@torch.no_grad()
def detail(flow: Flow, picture: Tensor) -> Tensor:
    """picture - decode(encode(picture)): what the codec loses of a clean picture.

    Added to a decoded edit of that picture it makes the unedited parts come back as they were.
    """
    return picture - flow.decode(flow.encode(picture))


@torch.no_grad()
def warm(flow: Flow, picture: Tensor, times: Times, start: float, noise: Noise) -> tuple[Tensor, Tensor]:
    """A start from a picture instead of from noise: the state at time `start` and the rest of the grid.

    x = sigma source + alpha encode(picture). The later the start, the fewer the steps and the more of the picture stays, with its
    faults: 0.2 to 0.5 for a degraded picture.

    Args:
        picture: `(b, c, h, w)` in [-1, 1], such as A^+ y or an enlarged measurement.
        times: a grid; start: in [0, 1). Grid points up to `start` are dropped.
    """
    rest, clean = later(times, start), flow.encode(picture)
    return mix(flow.path, noise(clean), clean, rest[0]), rest


def later(times: Times, start: float) -> Times:
    """The grid from `start` in [0, 1) on: it begins there, and grid points up to it are dropped."""
    if not 0 <= start < 1:
        raise ValueError(f"warm: expected a start in [0, 1), got {start}")
    return torch.cat([torch.tensor([start], dtype=times.dtype), times[times > start + 1e-9]])
