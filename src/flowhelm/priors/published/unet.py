"""diffusers' UNet2DModel as it carries the U-Nets of other code bases: PnP-Flow's, torchcfm's and guided-diffusion's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

Width = Annotated[int, Field(ge=1, le=65536)]
REACH = 64
"""How far an output looks, in pixels: most of its look, since the attention in the middle sees all."""


class UNetConfig(BaseModel):
    """How such a network is made.

    Attributes:
        size: side of the pictures that it was trained on. channels: of a picture; out: of what it returns.
        widths: channels of each level. blocks: residual blocks of a level on the way down; one more on the way up.
        attention: whether a level has attention behind each of its blocks.
        base: numbers that the time is written as. sine_first: their order; the frequencies end at 1/10000 then, else before.
        heads, head_width: of attention; one of them.
        shifted: whether the time scales and shifts (Nichol & Dhariwal 2021) or is added. residual: whether residual blocks change the size.
        classes: 0 for none. eps: of the norms.
        schedule: of a network that predicts noise; "" for a velocity.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    size: Annotated[int, Field(ge=1, le=16384)]
    channels: Width = 3
    out: Width = 3
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=12)]
    blocks: Annotated[int, Field(ge=1, le=64)]
    attention: Annotated[tuple[bool, ...], Field(min_length=1, max_length=12)]
    base: Width
    heads: Width | None = None
    head_width: Width | None = None
    shifted: bool = False
    residual: bool = False
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    sine_first: bool = False
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    schedule: Literal["", "linear", "cosine"] = ""

    @model_validator(mode="after")
    def _fits(self) -> UNetConfig:
        if len(self.attention) != len(self.widths):
            raise ValueError("expected as many levels of attention as of widths")
        if (self.heads is None) == (self.head_width is None):
            raise ValueError("expected heads or head_width, one of them")
        if any(width % 32 for width in self.widths):
            raise ValueError(f"expected widths that 32 divides, got {self.widths}; its norms have 32 groups")
        if any(width % self.heads_of(width) for width in self.widths):
            raise ValueError(f"expected widths that their heads divide, got {self.widths}")
        return self

    def heads_of(self, width: int) -> int:
        """Of an attention over so many channels."""
        return self.heads or max(1, width // (self.head_width or width))

    @property
    def stride(self) -> int:
        return int(2 ** (len(self.widths) - 1))


def network(config: UNetConfig) -> nn.Module:
    """The network with random weights; under `torch.device("meta")` it takes no memory."""
    try:
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import Attention
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
    except ImportError:
        raise ValueError(
            "prior: this network is diffusers' UNet2DModel, which is not installed; install it: pip install 'flowhelm[models]'"
        ) from None
    plain = "Resnet{}sampleBlock2D" if config.residual else "{}Block2D"  # with attention, `downsample_type` says which
    kinds = ["Attn{}Block2D" if attention else plain for attention in config.attention]
    net: Any = UNet2DModel(
        sample_size=config.size, in_channels=config.channels, out_channels=config.out, block_out_channels=config.widths,
        layers_per_block=config.blocks, down_block_types=tuple(kind.format("Down") for kind in kinds),
        up_block_types=tuple(kind.format("Up") for kind in reversed(kinds)), time_embedding_dim=4 * config.base,
        freq_shift=int(config.sine_first), flip_sin_to_cos=not config.sine_first, attention_head_dim=None, norm_eps=config.eps,
        attn_norm_num_groups=32, resnet_time_scale_shift="scale_shift" if config.shifted else "default",
        downsample_type="resnet" if config.residual else "conv", upsample_type="resnet" if config.residual else "conv",
        num_class_embeds=config.classes or None,
    )  # fmt: skip
    if config.base != config.widths[0]:  # of 512 x 512 pixels, whose first level is half as wide
        net.time_proj = Timesteps(config.base, not config.sine_first, int(config.sine_first))
        net.time_embedding = TimestepEmbedding(config.base, 4 * config.base)
    for each in net.modules():
        if isinstance(each, Attention):  # UNet2DModel takes one width of heads for all levels
            each.heads = config.heads_of(each.inner_dim)
            each.scale = (each.inner_dim // each.heads) ** -0.5
    return net


def alphas(schedule: str, steps: int = 1000) -> torch.Tensor:
    """alphas_cumprod `(steps,)` float64: betas from 1e-4 to 0.02 (linear; Ho et al. 2020), or cosine (arXiv:2102.09672, eq. 17)."""
    if schedule == "linear":
        return (1 - torch.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps, dtype=torch.float64)).cumprod(0)
    level = ((torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
    return (level[1:] / level[:-1]).clamp(min=1 - 0.999).cumprod(0)


def levels(config: UNetConfig) -> list[tuple[str, str, int, int]]:
    """(way, place in the network, level, number on it) of each residual block but the middle ones; way "down" or "up"."""
    count = len(config.widths)
    down = [("down", f"down_blocks.{k}", k, i) for k in range(count) for i in range(config.blocks)]
    up = [("up", f"up_blocks.{count - 1 - k}", k, i) for k in reversed(range(count)) for i in range(config.blocks + 1)]
    return down + up


def width_in(config: UNetConfig, way: str, level: int, i: int) -> int:
    """Channels that go into a residual block, those of the skip connection among them."""
    widths = config.widths
    if way == "down":
        return widths[level] if i else widths[max(level - 1, 0)]
    before = widths[level] if i else widths[min(level + 1, len(widths) - 1)]
    # the last block of a level gets what went into the level on the way down
    skip = widths[level] if i < config.blocks else widths[max(level - 1, 0)]
    return before + skip


__all__ = ["REACH", "UNetConfig", "alphas", "levels", "network", "width_in"]
