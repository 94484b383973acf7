"""Operators that are not linear: a differentiable `A` and nothing else."""

import math
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as fn

from flowhelm.entry import Positive, guarded
from flowhelm.measure import LinearOperator, Operator

from .blur import Width, gaussian

_DARK = 1e-3


@guarded
def saturate(shape: tuple[int, int, int], *, gain: Annotated[float, Gt(1)] = 2.0) -> Operator:
    """Recover what over- and under-exposure cut off: y = clip(gain x, -1, 1).

    The gradient is zero where the measurement is clipped.

    Options:
        gain: contrast around mid-grey before clipping; above 1, below which nothing is clipped

    flowhelm's own.
    """
    from deepinv.physics import Physics

    return Physics(A=partial(_clip, gain=gain))


@guarded
def phase(shape: tuple[int, int, int], *, oversampling: Annotated[float, Ge(1), Le(16)] = 2.0) -> Operator:
    """Recover a picture from the magnitudes of its Fourier transform: y = |F(pad(x01))|, channel by channel.

    x01 = (x + 1) / 2 is in [0, 1], padded with zeros to `ceil(oversampling * side)`; F is orthonormal, so that y has
    the norm of x01. y is `(b, c, H, W)` of the padded size and not a picture: it starts at 0 and exceeds 1. A picture,
    its shifts (in the padding) and its half turn measure alike. The gradient is 0 where the magnitude is 0.

    Options:
        oversampling: padded side over the picture's side, 1 to 16 (memory grows with its square); 2 determines almost every picture

    flowhelm's own.
    """
    from deepinv.physics import Physics

    return Physics(A=partial(_magnitude, oversampling=oversampling))


@guarded
def blur_linear_light(shape: tuple[int, int, int], *, sigma: Width = 1.6, gamma: Positive = 2.2) -> Operator:
    """Sharpen a picture blurred before its tone curve, as a lens does: y = 2 (k * x01^gamma)^(1/gamma) - 1.

    x01 = (x + 1) / 2 is in [0, 1], k a Gaussian; the picture wraps around. Light is never negative: x01 counts as at
    least 1/1000 (a quarter of an 8-bit level), and the gradient is zero below.

    Options:
        sigma: standard deviation of the Gaussian (pixels)
        gamma: exponent of the tone curve, above 0 (2.2 for most pictures); 1 blurs the values as they are

    flowhelm's own.
    """
    from deepinv.physics import Physics

    from .exact import circular

    blur = circular(shape, gaussian(sigma))
    operator = Physics(A=partial(_in_light, blur=blur, gamma=gamma))
    operator.blur = blur  # so that .to(device) moves the kernel, too
    return operator


def clean_side(padded: int, oversampling: float) -> int:
    """Inverse of the padding in `phase`."""
    return math.floor(padded / oversampling + 1e-9)


def _clip(image: Tensor, gain: float) -> Tensor:
    return (gain * image).clamp(-1, 1)


def _in_light(image: Tensor, blur: LinearOperator, gamma: float) -> Tensor:
    # the root's slope is infinite at 0, and a blur by Fourier transforms may dip below
    light = blur.A(((image + 1) / 2).clamp_min(_DARK) ** gamma).clamp_min(_DARK**gamma)
    return 2 * light ** (1 / gamma) - 1


def _magnitude(image: Tensor, oversampling: float) -> Tensor:
    bottom, right = (math.ceil(oversampling * side - 1e-9) - side for side in image.shape[-2:])
    return torch.fft.fft2(fn.pad((image + 1) / 2, (0, right, 0, bottom)), norm="ortho").abs()
