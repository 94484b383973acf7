"""What one gets without a prior: the rows to beat in every table."""

import torch
from torch import Tensor
from torch.fft import fftfreq, irfft2, rfft2, rfftfreq
from torch.nn import functional as fn

from flowhelm.measure import Operator


def wiener(y: Tensor, operator: Operator, std: float) -> Tensor:
    """Wiener filter for a circular convolution: the best linear estimate if pictures have a 1/f^2 power spectrum.

        X = conj(H) Y / (|H|^2 + std^2 / S),   S = level / f^2,   no shrinkage of the mean

    `level` is fitted to each row by E |Y|^2 = |H|^2 S + std^2 (orthonormal transforms, summed over f > 0 and the
    channels). y: `(b, c, h, w)`; std: in units of y, above 0. Source: Wiener 1949; the spectrum, Field 1987.
    Raises ValueError for an operator that is not a circular convolution, a blur with an open border for one.
    """
    if not std > 0:
        raise ValueError(f"wiener: expected std > 0, got {std}; use operator.A_dagger for a measurement without noise")
    other = (
        "wiener: expected a circular convolution such as deblur or motion with border circular, got another operator"
    )
    if hasattr(operator, "crop"):  # an open blur, which takes pictures larger than y
        raise ValueError(other)
    impulse = torch.zeros_like(y[:1])
    impulse[..., 0, 0] = 1
    response = operator.A(impulse)
    probe = torch.linspace(-1, 1, impulse.numel()).reshape(impulse.shape).to(y)
    blurred, shifted = (operator.A(x) for x in (probe, probe.roll((1, 1), (-2, -1))))
    if blurred.shape != probe.shape or (shifted - blurred.roll((1, 1), (-2, -1))).abs().max() > 1e-4:
        raise ValueError(other)
    height, width = y.shape[-2:]
    transfer = rfft2(response)
    spectrum = rfft2(y, norm="ortho")
    frequency2 = fftfreq(height)[:, None] ** 2 + rfftfreq(width)[None] ** 2
    frequency2 = frequency2.to(y)
    relative = torch.where(frequency2 > 0, 1 / frequency2, 0.0)  # S / level; the mean takes no part in the fit
    # rfft2 keeps one of each conjugate pair, which therefore counts twice
    weight = torch.full_like(frequency2, 2.0)
    weight[:, 0] = 1
    if width % 2 == 0:
        weight[:, -1] = 1
    weight[0, 0] = 0
    excess = (weight * (spectrum.abs() ** 2 - std**2)).sum((1, 2, 3))
    level = excess / (weight * transfer.abs() ** 2 * relative).sum((1, 2, 3))
    level = level.clamp_min(1e-12)[:, None, None, None]  # a measurement that is all noise
    estimate = transfer.conj() * spectrum / (transfer.abs() ** 2 + std**2 * frequency2 / level)
    return irfft2(estimate, s=(height, width), norm="ortho")


def bicubic(y: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation (a = -1/2, as Pillow) to `factor` times each side: `(b, c, h, w)` to `(b, c, f h, f w)`."""
    size = (y.shape[-2] * factor, y.shape[-1] * factor)
    # torch's a is -3/4 unless antialias is set, which changes nothing else when enlarging
    return fn.interpolate(y, size, mode="bicubic", align_corners=False, antialias=True)


def nearest(y: Tensor, mask: Tensor) -> Tensor:
    """Each missing entry becomes the nearest known one of its channel (Euclidean distance).

    y: `(b, c, h, w)`; mask: `(h, w)`, `(1, h, w)` or `(c, h, w)`, non-zero where known. Exact: the nearest known row
    within each column, then the best column within each row.
    """
    return torch.stack([_nearest(y[:, i], known) for i, known in enumerate(_per_channel(y, mask))], 1)


def biharmonic(y: Tensor, mask: Tensor) -> Tensor:
    """Fill the missing entries with a smooth (biharmonic) surface: skimage.restoration.inpaint_biharmonic.

    y: `(b, c, h, w)`; mask: `(h, w)`, `(1, h, w)` or `(c, h, w)`, non-zero where known. Runs on the CPU.
    Raises ImportError without scikit-image.
    """
    try:
        from skimage.restoration import inpaint_biharmonic
    except ImportError as error:
        raise ImportError("biharmonic needs scikit-image; install it with: pip install scikit-image") from error
    missing = [(~known).cpu().numpy() for known in _per_channel(y, mask)]
    rows = [
        torch.stack(
            [
                torch.from_numpy(inpaint_biharmonic(plane.cpu().numpy(), m))
                for plane, m in zip(row, missing, strict=True)
            ]
        )
        for row in y
    ]
    return torch.stack(rows).to(y)


def _per_channel(y: Tensor, mask: Tensor) -> Tensor:
    """The mask as booleans (c, h, w)."""
    if mask.ndim not in (2, 3) or mask.shape[-2:] != y.shape[-2:]:
        raise ValueError(
            f"mask: expected (h, w) or (c, h, w) with h x w = {y.shape[-2]} x {y.shape[-1]}, got {tuple(mask.shape)}; "
            "pass operator.mask[0]"
        )
    known = (mask != 0).expand(y.shape[1:])
    if not known.flatten(1).any(1).all():
        raise ValueError("mask: expected something known in every channel, got a channel that is wholly missing")
    return known


def _nearest(plane: Tensor, known: Tensor) -> Tensor:
    """plane: (b, h, w), known: (h, w)."""
    height, width = known.shape
    far = 2 * (height + width)  # further than anything
    row = torch.arange(height, device=known.device)[:, None].expand(height, width)
    above = torch.where(known, row, -far).cummax(0).values
    below = torch.where(known, row, far).flip(0).cummin(0).values.flip(0)
    closest = torch.where(row - above <= below - row, above, below)
    distance2 = (closest - row) ** 2
    column = torch.arange(width, device=known.device)
    across2 = (column[:, None] - column[None]) ** 2
    source = torch.stack([(line + across2).argmin(1) for line in distance2])
    return plane[:, closest.gather(1, source), source]
