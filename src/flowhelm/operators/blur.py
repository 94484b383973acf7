"""Circular convolutions: the picture is continued periodically, so that all solutions are closed in Fourier space."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowhelm.measure import LinearOperator


def deblur(shape: tuple[int, int, int], *, sigma: float = 1.6) -> LinearOperator:
    """Sharpen a picture blurred by a Gaussian.

    Options:
        sigma: standard deviation of the Gaussian (pixels)
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"deblur: expected sigma > 0 in pixels, got {sigma}; for no blur use denoise")
    from deepinv.physics.functional import gaussian_blur

    side = 2 * math.ceil(5 * sigma) + 1  # at 5 sigma the Gaussian has fallen to 4e-6 of its peak
    return _blur(shape, gaussian_blur(psf_size=(side, side), sigma=(float(sigma), float(sigma)))[0, 0])


def motion(shape: tuple[int, int, int], *, kernel: Path) -> LinearOperator:
    """Sharpen a picture blurred by a known kernel, such as the trace of a shaken camera.

    Options:
        kernel: .npy, .npz or picture file of the kernel, made to sum to 1. In an .npz of several, `file.npz:NAME`
            or `file.npz:3` (counted from 0) picks one; without, the first
    """
    return _blur(shape, _kernel(str(kernel)))


def _blur(shape: tuple[int, int, int], kernel: Tensor) -> LinearOperator:
    """Convolution with `kernel` (h, w), whose centre is at (h // 2, w // 2).

    A kernel larger than the picture is wrapped around it, which is the same circular convolution.
    """
    from .exact import CircularBlur

    if kernel.shape[0] > shape[1] or kernel.shape[1] > shape[2]:
        whole = torch.zeros(shape[1:])
        index = [
            (torch.arange(have) - have // 2 + size // 2) % size
            for have, size in zip(kernel.shape, shape[1:], strict=True)
        ]
        whole.index_put_((index[0][:, None], index[1][None, :]), kernel, accumulate=True)
        kernel = whole
    return CircularBlur(shape, filter=kernel[None, None])


def _kernel(name: str) -> Tensor:
    """The kernel in a file, (h, w), float32, sum 1. Nothing is ever unpickled."""
    packed = re.fullmatch(r"(.+\.npz)(?::(.+))?", name, re.IGNORECASE)
    if packed:
        with np.load(packed[1], allow_pickle=False) as archive:
            key = packed[2] or "0"
            if key not in archive.files:
                if not (key.isdecimal() and int(key) < len(archive.files)):
                    raise ValueError(
                        f"motion: {packed[1]} holds {', '.join(archive.files) or 'nothing'}, got {key!r}; "
                        f"name one of them or a number below {len(archive.files)}"
                    )
                key = archive.files[int(key)]
            values = archive[key]
    elif name.lower().endswith(".npy"):
        values = np.load(name, allow_pickle=False)
    else:
        with Image.open(name) as picture:
            values = np.array(picture.convert("F"))
    values = values.astype(np.float64).squeeze()
    if values.ndim != 2 or not np.isfinite(values).all() or not values.sum() > 0:
        raise ValueError(
            f"motion: expected a kernel of two dimensions, finite and with a positive sum, got shape {values.shape} "
            f"with sum {values.sum():g} in {name}; give one kernel, not a stack"
        )
    return torch.from_numpy(values / values.sum()).float()
