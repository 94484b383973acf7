"""The U-Net of PnP-Flow (Martin et al. 2025, arXiv:2410.02423; github.com/annegnx/PnP-Flow): CelebA and AFHQ-Cat, minibatch OT.

A velocity from noise (t = 0) to pictures in [-1, 1] (t = 1); MPC-Flow and Flower use the same files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..denoisers import Told
from ..foreign import diffusers_net
from .names import Table, both, flat, number, shape
from .unet import REACH, UNetConfig, levels, network, width_in

LAYOUT = "PnP-Flow's U-Net"
ENTRIES = ("model_state_dict",)
Config = UNetConfig


def config(weights: Mapping[str, Tensor], size: int = 128) -> UNetConfig:
    """Read off the shapes; they do not show the size of the pictures."""
    base, channels = shape(weights, "begin_conv.weight", LAYOUT)[:2]
    found = [
        match
        for name in weights
        if (match := re.fullmatch(r"down_modules\.(\d+)\.\d+a_(\d+)a_block\.conv1\.weight", name))
    ]
    count = number(max((int(each[1]) for each in found), default=-1) + 1, "levels on the way down", LAYOUT)
    return UNetConfig(
        size=size, channels=channels, out=shape(weights, "end_conv.2.weight", LAYOUT)[0],
        widths=tuple(shape(weights, f"down_modules.{k}.{k}a_0a_block.conv1.weight", LAYOUT)[0] for k in range(count)),
        blocks=max(int(each[2]) for each in found) + 1,
        attention=tuple(f"down_modules.{k}.{k}a_0b_attn.attn_q.weight" in weights for k in range(count)),
        base=base, heads=1, sine_first=True, eps=1e-6,
    )  # fmt: skip


def _block(to: str, name: str, wider: bool) -> Table:
    pairs = [
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("time_emb_proj", "temb_proj"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
    ]
    found: Table = {}
    for ours, theirs in [*pairs, *[("conv_shortcut", "shortcut")] * wider]:
        found |= both(f"{to}.{ours}", f"{name}.{theirs}")
    return found


def _attention(to: str, name: str) -> Table:
    found = both(f"{to}.group_norm", f"{name}.norm")
    for ours, theirs in (("to_q", "attn_q"), ("to_k", "attn_k"), ("to_v", "attn_v"), ("to_out.0", "proj_out")):
        found |= both(f"{to}.{ours}", f"{name}.{theirs}", flat)
    return found


def table(made: UNetConfig) -> Table:
    """Of `network`."""
    found = both("conv_in", "begin_conv") | both("conv_norm_out", "end_conv.0") | both("conv_out", "end_conv.2")
    found |= both("time_embedding.linear_1", "temb_net.main.0") | both("time_embedding.linear_2", "temb_net.main.2")
    last = len(made.widths) - 1
    for way, to, k, i in levels(made):
        name = f"{way}_modules.{k if way == 'down' else last - k}.{k}a_{i}"
        found |= _block(f"{to}.resnets.{i}", f"{name}a_block", width_in(made, way, k, i) != made.widths[k])
        if made.attention[k]:
            found |= _attention(f"{to}.attentions.{i}", f"{name}b_attn")
    for k in range(last):
        found |= both(f"down_blocks.{k}.downsamplers.0.conv", f"down_modules.{k}.{k}b_downsample")
    for k in range(1, last + 1):
        found |= both(f"up_blocks.{last - k}.upsamplers.0.conv", f"up_modules.{last - k}.{k}b_upsample.up_conv")
    for at, to in ((0, "mid_block.resnets.0"), (2, "mid_block.resnets.1")):
        found |= _block(to, f"mid_modules.{at}", False)
    return found | _attention("mid_block.attentions.0", "mid_modules.1")


def called(net: nn.Module, made: UNetConfig) -> nn.Module:
    """As `net(x, t, *conditions)`, for pictures of any size."""
    return Told(diffusers_net(net), made.stride, REACH)


def convention(made: UNetConfig) -> dict[str, Any]:
    """What `foreign.Foreign` is told."""
    return {"kind": "velocity"}


__all__ = ["ENTRIES", "LAYOUT", "Config", "called", "config", "convention", "network", "table"]
