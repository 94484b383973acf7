"""EDM's denoisers (Karras et al. 2022, arXiv:2206.00364): CIFAR-10, FFHQ and ImageNet at 32 and 64 pixels, carried by deepinv.

The .pkl files of github.com/NVlabs/edm hold the network's program beside its numbers and cannot be read without running it; deepinv
publishes the same networks as plain state dicts at huggingface.co/deepinv/edm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ..foreign import Sigmas
from .names import From, Table, number, shape

LAYOUT = "EDM's network as deepinv has it"
ENTRIES = ("state_dict",)
REMEDY = (
    "EDM's .pkl holds the network's program, which only running it would read; take the same network as a state dict from "
    "https://huggingface.co/deepinv/edm and convert that"
)
Width = Annotated[int, Field(ge=1, le=65536)]


class Config(BaseModel):
    """kind: "adm", "ncsn" (NCSN++) or "ddpm" (DDPM++). attention: sides of the levels that have it. std: of the data, which it expects."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["adm", "ncsn", "ddpm"]
    size: Annotated[int, Field(ge=1, le=4096)]
    channels: Width = 3
    base: Width
    growth: Annotated[tuple[Width, ...], Field(min_length=1, max_length=12)]
    blocks: Annotated[int, Field(ge=1, le=64)]
    attention: tuple[Width, ...] = ()
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    augmented: Annotated[int, Field(ge=0, le=1024)] = 0
    std: Annotated[float, Field(gt=0)] = 0.5


def config(weights: Mapping[str, Tensor]) -> Config:
    """Read off the names and shapes."""
    first = [match for name in weights if (match := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name))]
    number(len(first), "enc.SIZExSIZE_conv.weight", LAYOUT)
    size, (base, channels) = int(first[0][1]), shape(weights, first[0][0], LAYOUT)[:2]
    found = [match for name in weights if (match := re.fullmatch(r"enc\.(\d+)x\1_block(\d+)\.conv0\.weight", name))]
    sides = sorted({int(each[1]) for each in found}, reverse=True)
    number(len(sides), "blocks", LAYOUT)
    if "out_norm.weight" in weights:
        kind: Literal["adm", "ncsn", "ddpm"] = "adm"
    else:
        kind = "ncsn" if any("aux_residual" in name for name in weights) else "ddpm"
    label, augment = weights.get("map_label.weight"), weights.get("map_augment.weight")
    return Config(
        kind=kind, size=size, channels=channels, base=base, blocks=max(int(each[2]) for each in found) + 1,
        growth=tuple(shape(weights, f"enc.{side}x{side}_block0.conv0.weight", LAYOUT)[0] // base for side in sides),
        attention=tuple(side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in weights),
        classes=0 if label is None else label.shape[1], augmented=0 if augment is None else augment.shape[1],
    )  # fmt: skip


def network(made: Config) -> nn.Module:
    """The network with random weights."""
    from deepinv.models import ADMUNet, NCSNpp

    options: dict[str, Any] = {
        "img_resolution": made.size, "in_channels": made.channels, "out_channels": made.channels, "label_dim": made.classes,
        "augment_dim": made.augmented, "model_channels": made.base, "channel_mult": made.growth, "num_blocks": made.blocks,
        "attn_resolutions": made.attention, "dropout": 0.0, "pretrained": None, "_was_trained_on_minus_one_one": True,
        "pixel_std": made.std,
    }  # fmt: skip
    net: nn.Module = ADMUNet(**options) if made.kind == "adm" else NCSNpp(model_type=made.kind, **options)
    return net


def table(made: Config) -> Table:
    """Of `network`: its own names."""
    with torch.device("meta"):
        return {name: From(name) for name in network(made).state_dict()}


class Denoising(nn.Module):
    """`net(state, sigma, class)` of pictures in [-1, 1]: classes are told as numbers."""

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        told = None if label is None else nn.functional.one_hot(label, self.classes).to(x)
        out: Tensor = self.net(x, sigma, class_labels=told, input_in_minus_one_one=True)
        return out


def called(net: nn.Module, made: Config) -> nn.Module:
    """As `net(x, sigma, *conditions)`."""
    return Denoising(net, made.classes)


def convention(made: Config) -> dict[str, Any]:
    """What `foreign.Foreign` is told."""
    return {"kind": "clean", "schedule": Sigmas(0.002, 80.0)}


__all__ = ["ENTRIES", "LAYOUT", "REMEDY", "Config", "called", "config", "convention", "network", "table"]
