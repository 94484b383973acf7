"""From a name, a folder or a loaded pipeline to a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...flow import Flow
from .auraflow import AuraFlow
from .chroma import Chroma
from .cogview4 import CogView4
from .flux import Flux
from .flux2 import Flux2, Flux2Klein
from .glm_image import GlmImage
from .hidream import HiDream
from .hunyuan_image import HunyuanImage
from .ideogram4 import Ideogram4
from .krea2 import Krea2
from .longcat import LongCatImage
from .lumina2 import Lumina2
from .ovis import OvisImage
from .pipeline import Pipeline
from .qwen import QwenImage, QwenImage21
from .sana import Sana
from .sd3 import StableDiffusion3
from .z_image import ZImage

FAMILIES: tuple[type[Pipeline], ...] = (
    AuraFlow,
    Chroma,
    CogView4,
    Flux,
    Flux2,
    Flux2Klein,
    GlmImage,
    HiDream,
    HunyuanImage,
    Ideogram4,
    Krea2,
    LongCatImage,
    Lumina2,
    OvisImage,
    QwenImage,
    QwenImage21,
    Sana,
    StableDiffusion3,
    ZImage,
)


def family(pipe: Any) -> type[Pipeline]:
    """The family of a loaded pipeline, by the name of its class.

    Raises:
        ValueError: none of ours.
    """
    name = type(pipe).__name__
    for each in FAMILIES:
        if name in each.classes:
            return each
    known = ", ".join(sorted(name for each in FAMILIES for name in each.classes))
    raise ValueError(
        f"pipeline: there is no family for {name}; expected one of {known}. To add it, write a subclass of "
        "flowhelm.priors.pipelines.Pipeline with _ask and _text (see 'Adding a model' in the documentation)"
    )


def wrap(pipe: Any, *, size: tuple[int, int] | None = None, freeze: bool = True) -> Pipeline:
    """A loaded diffusers pipeline as a flow.

    Args:
        pipe: of a family in `FAMILIES`; its components are used where they are, in their dtype and on their device.
        size: (height, width) of the pictures in pixels; None for the family's own, which is large.
        freeze: put its networks in evaluation mode and switch their gradients off; gradients with respect to states and
            pictures stay. False leaves them as they are, to train them.

    Raises:
        ValueError: an unknown family, or a size that it cannot take.
    """
    made = family(pipe)
    if freeze:
        for each in pipe.components.values():
            if isinstance(each, torch.nn.Module):
                each.eval().requires_grad_(False)
    if size is None:
        side = getattr(pipe, "default_sample_size", None)
        side = side * pipe.vae_scale_factor if isinstance(side, int) else 1024
        size = (side, side)
    return made(pipe, size)


def load(
    model: str | Path,
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> Flow:
    """A pretrained pipeline by its hub name or folder, as a flow.

    Args:
        model: such as "black-forest-labs/FLUX.2-dev", or a folder that `save_pretrained` wrote. Only safetensors are read.
        size: see `wrap`.
        dtype: of the weights. The state stays float32.
        device: where everything is put.
    """
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(model), torch_dtype=dtype, use_safetensors=True).to(device)
    return wrap(pipe, size=size)
