"""deepinv physics with exact proximal maps. Imports deepinv, so import this module inside functions only.

    prox_l2(z, y, gamma) = argmin_x  gamma/2 |A x - y|^2 + 1/2 |x - z|^2

deepinv solves (A^T A + 1/gamma) x = A^T y + z/gamma. That divides rounding errors by 1/gamma wherever A is nearly
blind, and with a thin SVD (`Decolorize`: V is not square) it loses all of z that A does not see. Both vanish when the
map is written as a correction to z.
"""

import math

import torch
from deepinv.physics import BlurFFT, Decolorize, DecomposablePhysics, LinearPhysics
from torch import Tensor
from torch.fft import fft, fft2, ifft2
from torch.nn.functional import pad

from flowhelm.measure import conjugate_gradient


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


def circular(shape: tuple[int, int, int], kernel: Tensor) -> CircularBlur:
    """Convolution with `kernel` (h, w), whose centre is at (h // 2, w // 2), on a picture (c, h, w).

    A kernel larger than the picture is wrapped around it, which is the same circular convolution.
    """
    if kernel.shape[0] > shape[1] or kernel.shape[1] > shape[2]:
        whole = torch.zeros(shape[1:])
        index = [
            (torch.arange(have) - have // 2 + size // 2) % size
            for have, size in zip(kernel.shape, shape[1:], strict=True)
        ]
        whole.index_put_((index[0][:, None], index[1][None, :]), kernel, accumulate=True)
        kernel = whole
    return CircularBlur(shape, filter=kernel[None, None])


class _Cropped(LinearPhysics):
    """The part of a circular blur that its wrapping does not reach: what a camera sees of a scene larger than its frame.

    With A = M B, M the crop, prox = z + A^T w where w = gamma (1 + gamma A A^T)^-1 (y - A z) is left to a subclass. Where A
    is nearly blind so is A^T, which spares the prox the errors of w.

    Args:
        shape: of the clean picture, (c, h, w), no smaller than the kernel (h, w), whose centre is at (h // 2, w // 2)
    """

    def __init__(self, shape: tuple[int, int, int], kernel: Tensor):
        super().__init__(img_size=shape)
        size = kernel.shape
        self.scene = circular(shape, kernel)
        self.frame_sides = shape[1] - size[0] + 1, shape[2] - size[1] + 1
        self.rows, self.columns = (slice((k - 1) // 2, side - k // 2) for side, k in zip(shape[1:], size, strict=True))

    def crop(self, x: Tensor) -> Tensor:
        """What the measurement shows of a clean picture."""
        return x[..., self.rows, self.columns]

    def A(self, x: Tensor) -> Tensor:
        return self.crop(self.scene.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.scene.A_adjoint(self._padded(y))

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor) -> Tensor:
        z = _picture(z, self, y)
        gamma = gamma.reshape(-1, 1, 1, 1) if isinstance(gamma, Tensor) else gamma
        return z + self.A_adjoint(self._solve(y - self.A(z), gamma))

    def _solve(self, residual: Tensor, gamma: float | Tensor) -> Tensor:
        raise NotImplementedError

    def _padded(self, y: Tensor) -> Tensor:
        _, height, width = self.scene.img_size
        return pad(y, (self.columns.start, width - self.columns.stop, self.rows.start, height - self.rows.stop))


class OpenBlur(_Cropped):
    """By conjugate gradients, to 1e-5 of the right-hand side.

    A A^T is Toeplitz; the circular blur of the cropped size is the preconditioner, applied half from either side.
    """

    def __init__(self, shape: tuple[int, int, int], kernel: Tensor):
        super().__init__(shape, kernel)
        self.frame = circular((shape[0], *self.frame_sides), kernel)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(conjugate_gradient(self._gram, y, 1e-6, 300))

    def _solve(self, residual: Tensor, gamma: float | Tensor) -> Tensor:
        # the spectrum's last axis holds real and imaginary parts
        gain = (1 + (gamma[..., None] if isinstance(gamma, Tensor) else gamma) * self.frame.mask**2).rsqrt()

        def half(v: Tensor) -> Tensor:
            return self.frame.U(gain * self.frame.U_adjoint(v))

        def system(v: Tensor) -> Tensor:
            w = half(v)
            return half(w + gamma * self._gram(w))

        return gamma * half(conjugate_gradient(system, half(residual), 1e-5, 300))

    def _gram(self, w: Tensor) -> Tensor:
        """A A^T."""
        return self.crop(self.scene.A_A_adjoint(self._padded(w)))


def mirrored_eigh(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.linalg.eigh` of a symmetric matrix `(n, n)` that is its own half turn, as symmetric Toeplitz ones are, at a quarter of the
    cost: eigenvalues (in no order) and eigenvectors, as `turned` takes them.

    The eigenvectors are the same, or of opposite sign, from either end, so that two matrices of half the size have them (Cantoni &
    Butler 1976): the first n - n // 2 of them are the same, and of either kind the first half is returned, with the middle.
    """
    half, odd = divmod(len(matrix), 2)
    near, far = matrix[:half, :half], matrix[len(matrix) - half :, :half].flip(0)
    even = near + far
    if odd:
        side = math.sqrt(2) * matrix[:half, half : half + 1]
        even = torch.cat([torch.cat([even, side], 1), torch.cat([side.T, matrix[half : half + 1, half : half + 1]], 1)])
    (values, like), (others, unlike) = torch.linalg.eigh(even), torch.linalg.eigh(near - far)
    like = torch.cat([like[:half] / math.sqrt(2), like[half:]])
    return torch.cat([values, others]), like, unlike / math.sqrt(2)


def turned(y: Tensor, like: Tensor, unlike: Tensor, *, back: bool = False) -> Tensor:
    """Columns `(..., n, m)` in the eigenvectors of `mirrored_eigh`, or `back`: at half the cost of a product with all of them."""
    half, n = len(unlike), y.shape[-2]
    if back:
        same, other = like @ y[..., : n - half, :], unlike @ y[..., n - half :, :]
        near = same[..., :half, :]
        return torch.cat([near + other, same[..., half:, :], (near - other).flip(-2)], -2)
    near, far = y[..., :half, :], y[..., n - half :, :].flip(-2)
    same = torch.cat([near + far, y[..., half : n - half, :]], -2)
    return torch.cat([like.T @ same, unlike.T @ (near - far)], -2)


class OpenSeparableBlur(_Cropped):
    """In closed form, for a kernel that is a column times a row: A A^T is then the Kronecker product of two small matrices.

    Costs half of four products with matrices of the picture's sides, and their eigenvectors once.
    """

    def __init__(self, shape: tuple[int, int, int], column: Tensor, row: Tensor):
        super().__init__(shape, torch.outer(column, row))
        values = []
        for name, taps, side in zip(("left", "right"), (column, row), self.frame_sides, strict=True):
            found, like, unlike = mirrored_eigh(_gram(taps.double(), side))
            values.append(found)
            self.register_buffer(f"{name}_like", like.float())
            self.register_buffer(f"{name}_unlike", unlike.float())
        rows, columns = values
        self.register_buffer("gram", torch.outer(rows, columns).clamp_min(0).float())

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(self._filtered(y, torch.where(self.gram > 1e-10, 1 / self.gram, 0.0)))

    def _solve(self, residual: Tensor, gamma: float | Tensor) -> Tensor:
        return self._filtered(residual, gamma / (1 + gamma * self.gram))

    def _filtered(self, y: Tensor, gain: Tensor) -> Tensor:
        left, right = (self.left_like, self.left_unlike), (self.right_like, self.right_unlike)
        along = turned(turned(y, *left).mT, *right).mT
        return turned(turned(gain * along, *left, back=True).mT, *right, back=True).mT


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


def _gram(taps: Tensor, side: int) -> Tensor:
    """A A^T, (side, side), of the convolution with `taps` that gives `side` values: their autocorrelation."""
    lags = torch.stack([(taps[k:] * taps[: len(taps) - k]).sum() for k in range(len(taps))])
    lags = pad(lags, (0, max(side - len(taps), 0)))
    place = torch.arange(side)
    return lags[(place[:, None] - place).abs()]


def _picture(z: Tensor | float | None, physics: LinearPhysics, y: Tensor) -> Tensor:
    """deepinv's own algorithms pass a number for a constant picture, or None for 0."""
    return z if isinstance(z, Tensor) else torch.full_like(physics.A_adjoint(y), z or 0.0)
