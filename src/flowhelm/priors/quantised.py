"""Networks with packed weights, on meta: as large as those that the libraries make, and with the copies that these make when a layer
is computed. Only linear layers are packed; norms, embeddings and convolutions stay (but see fp8).

    int8    torchao, weights only: a byte, and a float32 scale per output. The layer's weight is unpacked to compute it, and under
            a gradient that copy stays until the backward pass: without checkpointing all of them do.
    nf4     bitsandbytes: half a byte, and a float32 scale per 64. Unpacked for each layer, and once more in the backward pass.
    nf4-double  the same with the scales in a byte, in groups of 256
    fp8     storage only (diffusers' `enable_layerwise_casting`): a byte; a layer is cast to compute it, and stays under a gradient
    Q8_0, Q6_K, Q5_K, Q4_K, Q4_0, ...   blocks of GGUF, by gguf's own table, unpacked by diffusers' own code; stays under a gradient
"""

from __future__ import annotations

from math import ceil
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCHEMES = ("none", "int8", "nf4", "nf4-double", "fp8")
"""Beside the types of GGUF."""

GENTLE = ("none", "int8", "nf4")
"""From what changes a network least to most; what a plan chooses from."""


def sizes(scheme: str, outputs: int, inputs: int) -> list[tuple[int, torch.dtype]]:
    """What a packed weight `(outputs, inputs)` consists of: how many, of what."""
    count = outputs * inputs
    if scheme == "int8":
        return [(count, torch.int8), (outputs, torch.float32)]
    blocks = ceil(count / 64)
    packed = (ceil(count / 2), torch.uint8)
    code = (16, torch.float32)
    if scheme == "nf4":
        return [packed, (blocks, torch.float32), code]
    if scheme == "nf4-double":
        return [packed, (blocks, torch.uint8), (ceil(blocks / 256), torch.float32), (256, torch.float32), code]
    raise ValueError(f"quantise: expected one of {', '.join(SCHEMES)} or a type of GGUF such as Q4_K, got {scheme!r}")


def quantised(net: nn.Module, scheme: str) -> nn.Module:
    """The network `net` (on meta, changed in place) with its weights packed.

    Raises:
        ValueError: an unknown scheme, or a library that it needs and that is not here.
    """
    if scheme == "none":
        return net
    if scheme == "fp8":
        cast: Any = getattr(net, "enable_layerwise_casting", None)
        if cast is None:
            raise ValueError(
                f"quantise: fp8 is for the networks of diffusers, got {type(net).__name__}; use int8 or nf4"
            )
        cast(storage_dtype=torch.float8_e4m3fn, compute_dtype=next(net.parameters()).dtype)
        return net
    make = Packed if scheme in SCHEMES else _gguf
    for name, child in list(net.named_modules()):
        if type(child) is nn.Linear:
            place, _, last = name.rpartition(".")
            setattr(net.get_submodule(place), last, make(child, scheme))
    return net


class Packed(nn.Module):
    """A linear layer whose weight is packed, without data."""

    def __init__(self, linear: nn.Linear, scheme: str):
        super().__init__()
        self.scheme, self.shape, self.dtype = scheme, tuple(linear.weight.shape), linear.weight.dtype
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        for i, (count, dtype) in enumerate(sizes(scheme, *self.shape)):
            self.register_buffer("weight" if i == 0 else f"scale{i}", torch.empty(count, dtype=dtype, device="meta"))

    def unpacked(self) -> Tensor:
        """A new copy of the weight."""
        if self.scheme == "nf4-double":  # the scales are unpacked first, and are freed when the weight is there
            return _after(torch.empty(cast("Tensor", self.scale1).numel(), device="meta"), self._empty())
        return self._empty()

    def _empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        if self.scheme == "int8":
            out = F.linear(x, self.unpacked()) * torch.empty(self.shape[0], dtype=x.dtype, device="meta")
            return out if self.bias is None else out + self.bias
        if x.numel() == x.shape[-1] and not torch.is_grad_enabled():  # one token: multiplied as it is packed
            return x.new_empty(*x.shape[:-1], self.shape[0])
        return cast("Tensor", _Unpacked.apply(x, self))


class _Unpacked(torch.autograd.Function):
    """A linear layer that keeps the packed weight for the backward pass, not the unpacked one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.unpacked(), None


def _after(first: Tensor, second: Tensor) -> Tensor:
    return second


def _gguf(linear: nn.Linear, scheme: str) -> nn.Module:
    try:
        from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter  # type: ignore[import-not-found,unused-ignore]
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise ValueError(
            f"quantise: {scheme} is none of {', '.join(SCHEMES)}, and the types of GGUF need gguf; pip install gguf"
        ) from error
    if scheme not in GGMLQuantizationType.__members__:
        raise ValueError(
            f"quantise: expected one of {', '.join(SCHEMES)} or a type of GGUF such as Q4_K, got {scheme!r}"
        )
    kind = GGMLQuantizationType[scheme]
    block, size = GGML_QUANT_SIZES[kind]
    if linear.in_features % block:
        return linear  # as the converters leave it
    made = GGUFLinear(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.dtype, "meta")
    made.bias = linear.bias
    packed = torch.empty(linear.out_features, linear.in_features // block * size, dtype=torch.uint8, device="meta")
    made.weight = GGUFParameter(packed, quant_type=kind)
    return made
