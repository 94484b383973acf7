"""JPEG compression as an operator (ITU-T T.81; JFIF colours; libjpeg's quality scale and chroma interpolation)."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as fn

from flowhelm.entry import guarded
from flowhelm.measure import Operator

# T.81 Annex K, tables K.1 and K.2
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""

_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.16873589, -0.33126411, 0.5], [0.5, -0.41868759, -0.08131241]])
_TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.34413629, -0.71413629], [1, 1.772, 0]])
# what libjpeg has in their places, in 65536ths, and what it adds before it cuts off
_YCC_65536 = torch.tensor([[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]])
_YCC_ADDED = torch.tensor([32768, (128 << 16) + 32767, (128 << 16) + 32767])
_RGB_65536 = torch.tensor([[65536, 0, 91881], [65536, -22554, -46802], [65536, 116130, 0]])
_MIDDLE = torch.tensor([0.0, 128.0, 128.0]).reshape(3, 1, 1)

# libjpeg's default ("islow") DCT of one dimension, in 8192ths, times the root of 8: the products of jfdctint.c and jidctint.c
# summed up, which nothing rounds; its inverse is the transpose
_DCT = torch.tensor(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ]
)


@guarded
def jpeg(
    shape: tuple[int, int, int],
    *,
    quality: Annotated[int, Ge(1), Le(100)] = 20,
    subsampling: Literal["4:4:4", "4:2:0"] = "4:2:0",
) -> Operator:
    """Undo JPEG compression.

    `A` is the round trip through a JPEG file, for RGB or grey pictures of any size: pixel for pixel what libjpeg-turbo (Pillow's)
    makes of their 8 bits by its default integer DCT, tested with version 3.1. Other encoders (libjpeg 9, mozjpeg, cameras) and
    decoders may have other tables and roundings. Its gradient is straight-through: each rounding and clamping counts as
    the identity, so that A^T v is v itself, but for the chroma's loss of resolution in 4:2:0.

    Options:
        quality: libjpeg's quality, 1 (worst) to 100; of a JPEG file that is restored, by its own tables if not given
        subsampling: `4:2:0` stores the colours at half resolution, as most files do; `4:4:4` at full

    The standard is ITU-T T.81.
    """
    if shape[0] not in (1, 3):
        raise ValueError(f"jpeg: expected a picture of 1 or 3 channels, got {shape[0]}; convert it to grey or RGB")
    from deepinv.physics import Physics

    luma, chroma = (_table(values, quality) for values in (_LUMA, _CHROMA))
    return Physics(A=partial(_round_trip, luma=luma, chroma=chroma, halve=subsampling == "4:2:0"))


def _table(values: str, quality: int) -> Tensor:
    """Quantisation steps (8, 8); libjpeg's jpeg_quality_scaling and baseline tables."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([int(value) for value in values.split()])
    return ((base * percent + 50) // 100).clamp(1, 255).reshape(8, 8).float()


def luma_steps(quality: int) -> Tensor:
    """The quantisation steps (8, 8) of brightness."""
    return _table(_LUMA, quality)


def as_noise(quality: int) -> float:
    """The standard deviation, in [-1, 1], of noise that is as far from the clean picture as what JPEG did, to the eye of a prior of
    clean pictures: a sixth of a mean quantisation step (measured; `python -m flowhelm.bench.quality.noise_level`)."""
    return float(f"{float(luma_steps(quality).mean()) / 6 / 127.5:.3g}")


def _round_trip(image: Tensor, luma: Tensor, chroma: Tensor, halve: bool) -> Tensor:
    channels, height, width = image.shape[1:]
    # whole numbers of up to 2^36 are exact in float64
    pixels = _straight((image + 1) * 127.5, lambda v: v.round().clamp(0, 255)).double()
    halve = halve and channels == 3
    # libjpeg repeats the last column before it halves the colours, but the last row after
    pixels = fn.pad(pixels, (0, -width % (16 if halve else 8), 0, height % 2 if halve else 0), mode="replicate")
    if channels == 1:
        decoded = _code(pixels, luma)
    else:
        middle = _MIDDLE.to(pixels)
        ycc = _valued(
            _cut(_mixed(_YCC_65536, pixels) + _YCC_ADDED.to(pixels).reshape(3, 1, 1), 16),
            _mixed(_TO_YCC, pixels) + middle,
        )
        colours = _alternate(fn.avg_pool2d(ycc[:, 1:], 2), 1 / 4, 2 / 4) if halve else ycc[:, 1:]
        colours = _code(colours, chroma)
        if halve:  # libjpeg's "fancy" upsampling, weights 3/4 and 1/4; it knows nothing of the padding
            colours = colours[..., : -(-width // 2)]
            colours = fn.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
            colours = _alternate(colours, 8 / 16, 7 / 16)
        ycc = torch.cat([part[..., :height, :width] for part in (_code(ycc[:, :1], luma), colours)], 1) - middle
        decoded = _valued(_cut(_mixed(_RGB_65536, ycc) + 32768, 16).clamp(0, 255), _mixed(_TO_RGB, ycc))
    return decoded[..., :height, :width].to(image) / 127.5 - 1


def _code(plane: Tensor, steps: Tensor) -> Tensor:
    """Quantise the DCT of 8 x 8 blocks; (b, c, h, w) in 0..255, w a multiple of 8."""

    def coded(plane: Tensor) -> Tensor:
        dct, quantum, height = _DCT.to(plane), steps.to(plane), plane.shape[-2]
        plane = fn.pad(plane, (0, 0, 0, -height % 8), mode="replicate")
        blocks = (plane - 128).unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
        # rows, then columns, to eighths; halves of a step away from zero
        eighths = _rounded(dct @ _rounded(blocks @ dct.T, 11), 15)
        levels = eighths.sign() * ((eighths.abs() + 4 * quantum) / (8 * quantum)).floor()
        # columns, then rows
        blocks = _rounded(_rounded(dct.T @ (levels * quantum), 11) @ dct, 18) + 128
        return blocks.clamp(0, 255).transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :height, :]

    return _straight(plane, coded)


def _mixed(matrix: Tensor, channels: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(channels), channels)


def _cut(values: Tensor, bits: int) -> Tensor:
    return (values / 2**bits).floor()


def _rounded(values: Tensor, bits: int) -> Tensor:
    return _cut(values + 2 ** (bits - 1), bits)


def _alternate(values: Tensor, even: float, odd: float) -> Tensor:
    """Round after adding `even` or `odd`, by column: libjpeg's way to send halves up and down in turn."""
    add = values.new_tensor([even, odd])[torch.arange(values.shape[-1], device=values.device) % 2]
    return _straight(values, lambda v: (v + add).floor())


def _straight(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's value with the identity's gradient."""
    return _valued(function(values.detach()), values)


def _valued(value: Tensor, like: Tensor) -> Tensor:
    """A value, exactly, with the gradient of another."""
    return value.detach() + (like - like.detach())
