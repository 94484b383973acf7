"""deepinv physics with exact proximal maps. Imports deepinv, so import this module inside functions only.

    prox_l2(z, y, gamma) = argmin_x  gamma/2 |A x - y|^2 + 1/2 |x - z|^2

deepinv solves (A^T A + 1/gamma) x = A^T y + z/gamma. That divides rounding errors by 1/gamma wherever A is nearly
blind, and with a thin SVD (`Decolorize`: V is not square) it loses all of z that A does not see. Both vanish when the
map is written as a correction to z.
"""

import torch
from deepinv.physics import BlurFFT, Decolorize, DecomposablePhysics, LinearPhysics
from torch import Tensor
from torch.fft import fft, fft2, ifft2


class _ThinSVD(DecomposablePhysics):
    """prox_l2 of A = U diag(mask) V^T: x = z + V gamma m / (1 + gamma m^2) (U^T y - m V^T z).

    `gamma` is a number or one per row, (b,) or (b, 1, 1, 1); a number for z stands for a constant picture.
    """

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor) -> Tensor:
        z = _picture(z, self, y)
        gamma = gamma.reshape(-1, *[1] * (self.mask.ndim - 1)) if isinstance(gamma, Tensor) else gamma
        gain = gamma * self.mask / (1 + gamma * self.mask**2)
        return z + self.V(gain * (self.U_adjoint(y) - self.mask * self.V_adjoint(z)))


class CircularBlur(_ThinSVD, BlurFFT):
    pass


class Grey(_ThinSVD, Decolorize):
    pass


class Decimate(LinearPhysics):
    """Every `factor`-th pixel of a circular correlation with taps x taps, from offset `first` on.

        y[i, j] = sum_{p, q} taps[p] taps[q] x[i factor + first + p, j factor + first + q]

    In Fourier space decimation averages the aliases and A A^T is diagonal, so that
    prox = z + A^T (A A^T + 1/gamma)^-1 (y - A z)  and  A_dagger = A^T (A A^T)^-1.
    deepinv's `Downsampling` takes an even kernel's centre at one pixel in `A` and at another in `prox_l2`, shifts
    averages off their blocks, and its adjoint fails for 2 x 2.
    """

    def __init__(self, shape: tuple[int, int, int], taps: Tensor, first: int, factor: int):
        super().__init__(img_size=shape)
        self.factor = factor
        rows, columns = (_transfer(taps.double(), first, side) for side in shape[1:])
        transfer = torch.outer(rows, columns)
        self.register_buffer("transfer", transfer.to(torch.complex64))
        self.register_buffer("gram", self._alias(transfer.abs() ** 2).float())

    def A(self, x: Tensor) -> Tensor:
        return ifft2(self._alias(self.transfer * fft2(x))).real

    def A_adjoint(self, y: Tensor) -> Tensor:
        return ifft2(self.transfer.conj() * fft2(y).repeat(1, 1, self.factor, self.factor)).real

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(self._solve(y, 0.0))

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor) -> Tensor:
        z = _picture(z, self, y)
        gamma = gamma.reshape(-1, 1, 1, 1) if isinstance(gamma, Tensor) else gamma
        return z + self.A_adjoint(self._solve(y - self.A(z), 1 / gamma))

    def _solve(self, y: Tensor, ridge: float | Tensor) -> Tensor:
        return ifft2(fft2(y) / (self.gram + ridge)).real

    def _alias(self, spectrum: Tensor) -> Tensor:
        parts = spectrum.unflatten(-1, (self.factor, -1)).unflatten(-3, (self.factor, -1))
        return parts.mean((-4, -2))


def _transfer(taps: Tensor, first: int, side: int) -> Tensor:
    """Transfer function of y[i] = sum_p taps[p] x[i + first + p] on a circle of `side` pixels."""
    kernel = taps.new_zeros(side)
    kernel.index_add_(0, (first + torch.arange(len(taps))) % side, taps)
    return fft(kernel).conj()


def _picture(z: Tensor | float | None, physics: LinearPhysics, y: Tensor) -> Tensor:
    """deepinv's own algorithms pass a number for a constant picture, or None for 0."""
    return z if isinstance(z, Tensor) else torch.full_like(physics.A_adjoint(y), z or 0.0)
