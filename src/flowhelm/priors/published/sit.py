"""SiT, the transformer of scalable interpolants (Ma et al. 2024, arXiv:2401.08740; github.com/willisma/SiT): ImageNet, by class.

A velocity over the latents of Stable Diffusion's auto-encoder, from noise (t = 0) to latents (t = 1). diffusers' DiTTransformer2DModel is
the same transformer with two differences that are undone here: it has an embedding of time and class in every block, of which one is
kept for all, and other frequencies of the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..foreign import diffusers_net
from .names import From, Table, both, number, shape, three

LAYOUT = "SiT"
ENTRIES = ("ema", "model")
Width = Annotated[int, Field(ge=1, le=65536)]


class Config(BaseModel):
    """`size`: side of a latent; `null`: whether the last class means none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: Annotated[int, Field(ge=1, le=16384)]
    channels: Width = 4
    out: Width = 8
    patch: Annotated[int, Field(ge=1, le=64)] = 2
    width: Width
    heads: Width = 16
    blocks: Annotated[int, Field(ge=1, le=1024)]
    classes: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    null: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.width % self.heads or self.size % self.patch:
            raise ValueError("expected a width that the heads divide and a size that the patch divides")
        return self


def config(weights: Mapping[str, Tensor], heads: int = 16) -> Config:
    """Read off the shapes, which do not show the heads. The last class is taken for none where there is one more than a round number."""
    width, channels, patch = shape(weights, "x_embedder.proj.weight", LAYOUT)[:3]
    places, classes = (
        shape(weights, "pos_embed", LAYOUT)[1],
        shape(weights, "y_embedder.embedding_table.weight", LAYOUT)[0],
    )
    numbers = [int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))]
    null = classes > 1 and classes % 10 == 1
    return Config(
        size=round(places**0.5) * patch, channels=channels, out=shape(weights, "final_layer.linear.weight", LAYOUT)[0] // patch**2,
        patch=patch, width=width, heads=heads, blocks=number(max(numbers, default=-1) + 1, "blocks", LAYOUT),
        classes=classes - null, null=null,
    )  # fmt: skip


class Once(nn.Module):
    """The embedding of the first block for all of them: its tensors are in a file once."""

    def __init__(self, held: nn.Module):
        super().__init__()
        self.held = [held]  # in a list, whose modules have no names

    def forward(self, *given: Any, **named: Any) -> Tensor:
        out: Tensor = self.held[0](*given, **named)
        return out


def network(made: Config) -> nn.Module:
    """The network with random weights; under `torch.device("meta")` it takes no memory."""
    try:
        from diffusers import DiTTransformer2DModel
        from diffusers.models.embeddings import Timesteps
    except ImportError:
        raise ValueError(
            "prior: this network is diffusers' DiTTransformer2DModel, which is not installed; install it: pip install 'flowhelm[models]'"
        ) from None
    net: Any = DiTTransformer2DModel(
        num_attention_heads=made.heads, attention_head_dim=made.width // made.heads, in_channels=made.channels, out_channels=made.out,
        num_layers=made.blocks, sample_size=made.size, patch_size=made.patch, num_embeds_ada_norm=made.classes, norm_eps=1e-6,
    )  # fmt: skip
    first = net.transformer_blocks[0].norm1.emb
    first.time_proj = Timesteps(num_channels=256, flip_sin_to_cos=True, downscale_freq_shift=0)
    first.class_embedder.dropout_prob = 0.0
    if not made.null:
        first.class_embedder.embedding_table = nn.Embedding(made.classes, made.width)
    for block in net.transformer_blocks[1:]:
        block.norm1.emb = Once(first)
    places = net.pos_embed.pos_embed
    del net.pos_embed.pos_embed  # part of a checkpoint
    net.pos_embed.register_buffer("pos_embed", torch.empty_like(places), persistent=True)
    return net


def table(made: Config) -> Table:
    """Of `network`."""
    found = both("pos_embed.proj", "x_embedder.proj") | {"pos_embed.pos_embed": From("pos_embed")}
    found |= both("proj_out_1", "final_layer.adaLN_modulation.1") | both("proj_out_2", "final_layer.linear")
    emb = "transformer_blocks.0.norm1.emb"
    found[f"{emb}.class_embedder.embedding_table.weight"] = From("y_embedder.embedding_table.weight")
    for at, layer in ((0, "linear_1"), (2, "linear_2")):
        found |= both(f"{emb}.timestep_embedder.{layer}", f"t_embedder.mlp.{at}")
    for k in range(made.blocks):
        to, name = f"transformer_blocks.{k}", f"blocks.{k}"
        found |= both(f"{to}.norm1.linear", f"{name}.adaLN_modulation.1") | three(
            f"{to}.attn1", f"{name}.attn.qkv", made.heads
        )
        found |= both(f"{to}.attn1.to_out.0", f"{name}.attn.proj")
        found |= both(f"{to}.ff.net.0.proj", f"{name}.mlp.fc1") | both(f"{to}.ff.net.2", f"{name}.mlp.fc2")
    return found


def called(net: nn.Module, made: Config) -> nn.Module:
    """As `net(x, t, class)`."""
    return diffusers_net(net)


def convention(made: Config) -> dict[str, Any]:
    """What `foreign.Foreign` is told."""
    return {"kind": "velocity", "learned_variance": made.out == 2 * made.channels}


__all__ = ["ENTRIES", "LAYOUT", "Config", "called", "config", "convention", "network", "table"]
