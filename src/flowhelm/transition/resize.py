"""Moves between sizes of the picture: a state `(b, c, h, w)` at time t becomes one of another size at a time s of its own.

A state is alpha clean + sigma noise with white noise. Averaging k x k pixels makes the noise k times weaker, and repeating pixels
makes it constant over blocks; each move says at what time its result has the right noise again. They hold on any path: what counts is
alpha / sigma. The rules are those of Bottleneck Sampling (Tian et al. 2025, arXiv:2503.18940) and RALU (Jeong et al. 2025,
arXiv:2507.08422).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..flow import Flow
from ..path import Path, at, mix, time_at_snr
from ..rng import Noise
from ..shapes import State, Time
from .draw import normal


def smaller(flow: Any, factor: int) -> Flow:
    """The same prior for pictures `factor` times smaller on each side; by its own `sized`, which renews position embeddings and shifts.

    Raises:
        ValueError: a prior of one size, or a size that the factor does not divide.
    """
    if not hasattr(flow, "sized"):
        raise ValueError(
            f"resize: expected a prior that takes any size, got {type(flow).__name__}, which has no `sized`"
        )
    height, width = getattr(flow, "size", flow.shape[-2:])
    small = flow.sized(height // factor, width // factor)
    if tuple(factor * side for side in small.shape[-2:]) != tuple(flow.shape[-2:]):
        raise ValueError(
            f"resize: expected sides that {factor} divides, got a state of {tuple(flow.shape[-2:])}; choose another size"
        )
    return small


def resized(x: State, height: int, width: int) -> State:
    """A clean state of another size, bicubic, smoothed first where it gets smaller. Not for noise: it would not stay white."""
    if x.shape[-2:] == (height, width):
        return x
    return interpolate(x, (height, width), mode="bicubic", align_corners=False, antialias=True)


def renoised(flow: Flow, clean: State, t: Time, noise: Noise | None) -> State:
    """alpha resized(clean) + sigma fresh noise, of the flow's size: a state at t with white noise, which forgets what its noise was.

    An estimate of the clean state is smoother than that state is: variance is lost, the more the earlier.
    """
    again = resized(clean, *flow.shape[-2:])
    return mix(flow.path, normal(again, noise, "resize"), again, t)


def pooled_time(path: Path, t: Time, factor: int) -> Tensor:
    """Where `pooled` lands: alpha / sigma is `factor` times that at t."""
    c = path(t)
    return time_at_snr(path, factor * c.alpha / c.sigma)


def pooled(flow: Flow, x: State, t: Time, factor: int) -> State:
    """Averages of `factor` x `factor` pixels, scaled to be the state at `pooled_time`: its noise is white, its signal the averaged one.

    No noise is drawn and no network asked. Exact where the smaller prior is that of averaged pictures.
    """
    c, later = at(flow.path, t, x), at(flow.path, pooled_time(flow.path, t, factor), x)
    scale = later.alpha / c.alpha if c.alpha > 0.5 else factor * later.sigma / c.sigma
    return scale * avg_pool2d(x, factor)


def repeated_time(path: Path, t: Time, factor: int) -> Tensor:
    """Where `repeated` lands: alpha / sigma is 1 / `factor` of that at t; on the linear path t / (factor - (factor - 1) t)."""
    c = path(t)
    return time_at_snr(path, c.alpha / c.sigma / factor)


def repeated(flow: Flow, x: State, t: Time, factor: int, noise: Noise | None) -> State:
    """Every pixel as `factor` x `factor`, and the noise that makes the whole white: the state at `repeated_time`.

    What is added has mean 0 in every block, b (n - blockmean n) with b = sigma there, so that the blocks' means keep their noise
    (RALU, arXiv:2507.08422, with the least loss of time). Its inverse is `pooled`. Exact where pictures are constant over blocks.
    """
    c, later = at(flow.path, t, x), at(flow.path, repeated_time(flow.path, t, factor), x)
    scale = later.alpha / c.alpha if c.alpha > 0.5 else later.sigma / (factor * c.sigma)
    up = x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    fresh = normal(up, noise, "resize")
    mean = avg_pool2d(fresh, factor).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    return scale * up + later.sigma * (fresh - mean)
