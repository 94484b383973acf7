"""Which blur a photograph has, for whoever does not know it: a Gaussian, a disc (out of focus) or a line (motion).

    found = blur_kind(picture, std)     # (1, c, h, w) in [-1, 1] with white noise of that standard deviation

By evidence. The power of a clean picture falls as a power of the frequency, the same in every direction or not (Field 1987, JOSA A 4);
that of the blurred one, measured at a frequency f in windows of the picture, is distributed exponentially around

    |kernel(f)|^2 exp(b . shape(f)) + noise,    shape(f) = (1, log |f|, cos 2 angle, sin 2 angle, cos 4 angle, sin 4 angle)

(Whittle 1953, Ark. Mat. 2). b, of a normal distribution around the usual fall, is integrated out by Laplace's approximation; the kernel
with the most evidence is taken. A kernel's zeros (Cannon 1976, IEEE TASSP 24) count without being looked for. That photographs are a
little soft by themselves is taken off. Edges, which line up phases, are not used, and free kernels are not in the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .noise_level import LEVEL

SIDE = 1024
"""Of the middle of a picture that is looked at."""
LEAST_SIGMA, MOST_SIGMA = 0.3, 4.0
"""Standard deviations that are looked for, in pixels; of a line up to half more."""
WINDOW, LEAST = 128, 32
"""The side of a window, and of the smallest picture that is looked at."""
FALL, SPREAD = 2.6, 0.35
"""Of the power of clean photographs, as an exponent of the frequency: mean and standard deviation."""
SOFT = 0.35
"""The standard deviation of a Gaussian, in pixels, by which photographs are soft when nothing is wrong with them."""
MORE = 1.03
"""How many times the evidence of a Gaussian another kernel must have: small ones are alike, and pictures differ more than they do."""
LUMA = (0.299, 0.587, 0.114)
Kernel = Callable[[float, float], Tensor]
"""(standard deviation along its axis in pixels, angle in degrees) -> `(h, w)`, sum 1."""


class Found(NamedTuple):
    """A blur: the name of its kernel, the standard deviation along its axis in pixels, the angle in degrees, and how much more evidence
    there is for it, in nats, than for none."""

    kernel: str
    sigma: float
    angle: float
    evidence: float


def blur_kind(picture: Tensor, std: float, kernels: dict[str, Kernel], *, soft: float = SOFT) -> Found | None:
    """The blur of `(1, c, h, w)` that has the most evidence; None of a picture that is too small.

    Args:
        std: of its noise. kernels: which are possible, by name; `line` has an angle.
    """
    if picture.dim() != 4 or len(picture) != 1 or picture.shape[1] not in (1, 3):
        raise ValueError(f"blur_kind: expected one picture (1, c, h, w) with c 1 or 3, got {tuple(picture.shape)}")
    if min(picture.shape[-2:]) < LEAST:
        return None
    spectrum = _Spectrum(picture, std, WINDOW, soft)
    found = [_best(name, kernel, spectrum) for name, kernel in kernels.items()]
    none = float(spectrum.evidence([(_none, 0.0, 0.0)], steps=12)[0])
    found = [each._replace(evidence=each.evidence - none) for each in found]
    best = max(found, key=lambda each: each.evidence)
    usual = next((each for each in found if each.kernel == "gaussian"), best)
    return usual if usual.evidence > 0 and best.evidence < MORE * usual.evidence else best


def _best(name: str, kernel: Kernel, spectrum: _Spectrum) -> Found:
    turning = name == "line"
    sigmas = torch.logspace(
        math.log10(LEAST_SIGMA), math.log10(MOST_SIGMA * (1.5 if turning else 1)), 18 if turning else 24
    ).tolist()
    tried = [(sigma, angle) for sigma in sigmas for angle in (_angles(sigma) if turning else [0.0])]
    told = spectrum.evidence([(kernel, *each) for each in tried])
    (sigma, angle), most = tried[int(told.argmax())], float(told.max())
    step, turn = math.log(sigmas[1] / sigmas[0]), 0.5 * _angles(sigma)[1]
    for _ in range(6):
        near = [(sigma * math.exp(by * step), angle) for by in (-1, -0.5, 0.5, 1)]
        near += [(sigma, angle + by * turn) for by in (-1, -0.5, 0.5, 1) if turning]
        told = spectrum.evidence([(kernel, *each) for each in near])
        if float(told.max()) > most:
            most, (sigma, angle) = float(told.max()), near[int(told.argmax())]
        step, turn = step / 1.7, turn / 1.7
    return Found(name, sigma, angle % 180, most)


def _angles(sigma: float) -> list[float]:
    """Of a line: so near to each other that its end moves by three quarters of a pixel."""
    count = max(8, math.ceil(math.pi * math.sqrt(3) * sigma / 0.75))
    return [180 * i / count for i in range(count)]


class _Spectrum:
    """The power of a picture's luma in windows of one size, and the evidence of kernels given it."""

    def __init__(self, picture: Tensor, std: float, side: int, soft: float):
        top, left = ((side_ - min(side_, SIDE)) // 2 for side_ in picture.shape[-2:])
        middle = picture[0].detach().cpu().double()[:, top : top + SIDE, left : left + SIDE]
        weights = torch.tensor(LUMA if len(middle) == 3 else (1.0,), dtype=torch.float64)
        grey = bool((middle == middle[:1]).all())
        light = torch.einsum("c,chw->hw", weights, middle)
        self.side = n = min(side, *(2 * (s // 2) for s in light.shape))
        power = _power(light, n)
        rows, columns = torch.meshgrid(
            torch.fft.fftfreq(n, dtype=torch.float64), torch.fft.rfftfreq(n, dtype=torch.float64), indexing="ij"
        )
        radius, angle = torch.hypot(rows, columns), torch.atan2(rows, columns)
        self.used = (radius > 2.5 / n) & (radius <= 0.5)
        radius, angle = radius[self.used], angle[self.used]
        twice = torch.full((n, n // 2 + 1), 2.0, dtype=torch.float64)
        twice[:, 0] = twice[:, -1] = 1.0  # the other half-plane is the same
        # as many looks as the picture has independent windows
        self.looks = (twice[self.used] / 2 * max(1.0, light.numel() / n**2)).float()
        self.power = power[self.used].float()
        shape = [torch.ones_like(radius), radius.log()]
        shape += [wave(k * angle) for k in (2, 4) for wave in (torch.cos, torch.sin)]
        self.shape = torch.stack(shape, 1).float()
        self.products = (self.shape[:, :, None] * self.shape[:, None]).flatten(1)
        self.mean = torch.zeros(len(shape))
        self.mean[1] = -FALL
        self.sure = torch.tensor([1e-6, 1 / SPREAD**2, 4.0, 4.0, 4.0, 4.0])
        share = 1.0 if grey else float(weights.square().sum())
        self.noise = share * (std**2 + LEVEL**2 / 12)  # rounding, too
        self.soft = (-((2 * math.pi * soft * radius) ** 2)).exp().float()

    def evidence(self, kernels: Sequence[tuple[Kernel, float, float]], steps: int = 6, together: int = 32) -> Tensor:
        """Logarithms `(n,)`, up to a constant, of kernels of a kind, width and angle."""
        gain = [_gain(self.side, *each)[self.used] for each in kernels]
        found = [
            self._evidence(torch.stack(gain[i : i + together]).float(), steps) for i in range(0, len(gain), together)
        ]
        return torch.cat(found)

    def _evidence(self, gain: Tensor, steps: int) -> Tensor:
        gain = gain * self.soft
        b = self.mean.repeat(len(gain), 1)
        first = gain * (b @ self.shape.T).exp()
        seen = ((self.power - self.noise).clamp(min=0) * self.looks).sum()
        b[:, 0] = (seen.clamp(min=1e-9) / (first * self.looks).sum(1).clamp(min=1e-30)).log()
        for step in range(steps + 1):
            signal = gain * (b @ self.shape.T).clamp(-40, 40).exp()
            total = signal + self.noise
            share = signal / total
            curved = ((share.square() * self.looks) @ self.products).unflatten(
                1, (len(self.mean), -1)
            ) + self.sure.diag()
            if step == steps:
                break
            up = (share * (self.power / total - 1) * self.looks) @ self.shape - self.sure * (b - self.mean)
            b = b + torch.linalg.solve(curved, up[..., None])[..., 0].clamp(-1, 1)  # Fisher's scoring
        fit = -((total.log() + self.power / total) * self.looks).sum(1)
        found: Tensor = fit - 0.5 * (self.sure * (b - self.mean).square()).sum(1) - 0.5 * torch.logdet(curved)
        return found


def _none(sigma: float, angle: float) -> Tensor:
    return torch.ones(1, 1)


@lru_cache(1024)  # the widths and angles that are tried first are the same for every picture
def _gain(side: int, kernel: Kernel, sigma: float, angle: float) -> Tensor:
    """The power `(side, side // 2 + 1)` that a kernel passes, as it is seen in a window, which fills its zeros a little."""
    passed = torch.fft.rfft2(kernel(sigma, angle), s=(side, side)).abs().square()
    return torch.fft.rfft2(torch.fft.irfft2(passed, s=(side, side)) * _taper(side)).real.clamp(min=0)


@cache
def _taper(n: int) -> Tensor:
    """How much of a product of pixels so far apart a window holds, `(n, n)`."""
    lags = torch.fft.irfft(torch.fft.rfft(torch.hann_window(n, dtype=torch.float64), 2 * n).abs().square(), 2 * n)
    lags = torch.cat([lags[: n // 2 + 1], lags[1 : n // 2].flip(0)]) / lags[0]
    return (lags[:, None] * lags).float()


def _power(light: Tensor, n: int) -> Tensor:
    """The mean power in windows of side n, half over one another, `(n, n // 2 + 1)`: white noise has its variance everywhere."""
    ramp = torch.hann_window(n, dtype=torch.float64)
    taper = ramp[:, None] * ramp
    found = torch.zeros(n, n // 2 + 1, dtype=torch.float64)
    rows, columns = (_starts(side, n) for side in light.shape)
    for top in rows:
        for left in columns:
            block = light[top : top + n, left : left + n]
            block = block - (block * taper).sum() / taper.sum()
            found += torch.fft.rfft2(block * taper).abs().square()
    return found / (len(rows) * len(columns) * taper.square().sum())


def _starts(side: int, n: int) -> list[int]:
    count = max(1, math.ceil(2 * (side - n) / n) + 1)
    return [round(i * (side - n) / max(1, count - 1)) for i in range(count)]
