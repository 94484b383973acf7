"""The U-Net of guided-diffusion, ADM (Dhariwal & Nichol 2021, arXiv:2105.05233; github.com/openai/guided-diffusion): FFHQ and ImageNet.

It predicts the noise of a variance-preserving schedule of 1000 levels, and its variance, which is left out. torchcfm's network is the
same one with other settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from ..denoisers import Told
from ..foreign import diffusers_net
from .names import Table, both, flat, number, shape, three
from .unet import REACH, UNetConfig, alphas, levels, network, width_in

LAYOUT = "guided-diffusion's U-Net"
ENTRIES = ("ema_model", "ema", "model", "state_dict")


class Config(UNetConfig):
    """`order`: how a checkpoint stacks query, key and value: "head", those of one head after the other, or "part", all queries first."""

    order: Literal["head", "part"] = "head"


def config(
    weights: Mapping[str, Tensor],
    size: int = 256,
    heads: int | None = None,
    head_width: int | None = None,
    order: Literal["head", "part"] = "head",
    schedule: Literal["", "linear", "cosine"] = "linear",
    layout: str = LAYOUT,
) -> Config:
    """Read off the shapes, which show neither the size of the pictures nor the heads (64 channels each unless said), nor the schedule."""
    base = shape(weights, "time_embed.0.weight", layout)[1]
    first = shape(weights, "input_blocks.0.0.weight", layout)
    upward = {int(match[1]) for name in weights if (match := re.match(r"output_blocks\.(\d+)\.", name))}
    growing = {
        int(match[1])
        for name in weights
        if (match := re.match(r"output_blocks\.(\d+)\.[12]\.(?:conv|in_layers)\.", name))
    }
    count = len(growing) + 1
    blocks = number(len(upward) // count - 1, "blocks on the way up", layout)
    at = [1 + k * (blocks + 1) for k in range(count)]
    widths = tuple(shape(weights, f"input_blocks.{k}.0.out_layers.3.weight", layout)[0] for k in at)
    return Config(
        size=size, channels=first[1], out=shape(weights, "out.2.weight", layout)[0], widths=widths, blocks=blocks,
        attention=tuple(f"input_blocks.{k}.1.qkv.weight" in weights for k in at), base=base,
        heads=heads, head_width=head_width if head_width or heads else 64,
        shifted=shape(weights, "input_blocks.1.0.emb_layers.1.weight", layout)[0] == 2 * widths[0],
        residual=count > 1 and f"input_blocks.{blocks + 1}.0.op.weight" not in weights,
        classes=weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0, order=order, schedule=schedule,
    )  # fmt: skip


def _block(to: str, name: str, wider: bool) -> Table:
    pairs = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
    ]
    found = both(f"{to}.conv2", f"{name}.out_layers.3")
    for ours, theirs in [*pairs, *[("conv_shortcut", "skip_connection")] * wider]:
        found |= both(f"{to}.{ours}", f"{name}.{theirs}")
    return found


def _attention(to: str, name: str, width: int, made: Config) -> Table:
    found = three(to, f"{name}.qkv", made.heads_of(width), made.order == "head")
    return found | both(f"{to}.group_norm", f"{name}.norm") | both(f"{to}.to_out.0", f"{name}.proj_out", flat)


def table(made: Config) -> Table:
    """Of `network`."""
    found = both("conv_in", "input_blocks.0.0") | both("conv_norm_out", "out.0") | both("conv_out", "out.2")
    found |= both("time_embedding.linear_1", "time_embed.0") | both("time_embedding.linear_2", "time_embed.2")
    if made.classes:
        found["class_embedding.weight"] = both("", "label_emb")[".weight"]
    last, step = len(made.widths) - 1, made.blocks + 1
    for way, to, k, i in levels(made):
        name = f"input_blocks.{1 + k * step + i}" if way == "down" else f"output_blocks.{(last - k) * step + i}"
        found |= _block(f"{to}.resnets.{i}", f"{name}.0", width_in(made, way, k, i) != made.widths[k])
        if made.attention[k]:
            found |= _attention(f"{to}.attentions.{i}", f"{name}.1", made.widths[k], made)
    for k in range(last):
        to, name = f"down_blocks.{k}.downsamplers.0", f"input_blocks.{(k + 1) * step}.0"
        found |= _block(to, name, False) if made.residual else both(f"{to}.conv", f"{name}.op")
    for k in range(1, last + 1):
        to, name = (
            f"up_blocks.{last - k}.upsamplers.0",
            f"output_blocks.{(last - k + 1) * step - 1}.{1 + made.attention[k]}",
        )
        found |= _block(to, name, False) if made.residual else both(f"{to}.conv", f"{name}.conv")
    found |= _block("mid_block.resnets.0", "middle_block.0", False) | _block(
        "mid_block.resnets.1", "middle_block.2", False
    )
    return found | _attention("mid_block.attentions.0", "middle_block.1", made.widths[-1], made)


def called(net: nn.Module, made: Config) -> nn.Module:
    """As `net(x, t, *conditions)`, for pictures of any size."""
    return Told(diffusers_net(net), made.stride, REACH)


def convention(made: Config) -> dict[str, Any]:
    """What `foreign.Foreign` is told."""
    if not made.schedule:
        return {"kind": "velocity"}
    return {"kind": "noise", "schedule": alphas(made.schedule), "learned_variance": made.out == 2 * made.channels}


__all__ = ["ENTRIES", "LAYOUT", "Config", "called", "config", "convention", "network", "table"]
