"""The families, and how a loaded pipeline becomes one of them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch

from .auraflow import AuraFlow
from .chroma import Chroma
from .cogview4 import CogView4
from .flux import Flux
from .flux2 import Flux2, Flux2Klein
from .glm_image import GlmImage
from .hidream import HiDream
from .hunyuan_image import HunyuanImage, HunyuanImageMap
from .ideogram4 import Ideogram4
from .krea2 import Krea2
from .longcat import LongCatImage
from .lumina2 import Lumina2
from .ovis import OvisImage
from .pipeline import Pipeline
from .pixart import PixArtAlpha, PixArtSigma
from .qwen import QwenImage, QwenImage21
from .sana import Sana
from .sd import StableDiffusion, StableDiffusionXL
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
    HunyuanImageMap,  # before the base model, which fits all of their class
    HunyuanImage,
    Ideogram4,
    Krea2,
    LongCatImage,
    Lumina2,
    OvisImage,
    PixArtAlpha,
    PixArtSigma,
    QwenImage,
    QwenImage21,
    Sana,
    StableDiffusion,
    StableDiffusion3,
    StableDiffusionXL,
    ZImage,
)


def family(pipe: Any) -> type[Pipeline]:
    """The family of a loaded pipeline, by the name of its class.

    Raises:
        ValueError: none of ours.
    """
    named_family(type(pipe).__name__)
    return next(each for each in FAMILIES if type(pipe).__name__ in each.classes and each.fits(pipe))


def named_family(name: str) -> type[Pipeline]:
    for each in FAMILIES:
        if name in each.classes:
            return each
    known = sorted(name for each in FAMILIES for name in each.classes)
    near = get_close_matches(name, known, 1, 0.8)
    raise ValueError(
        f"pipeline: there is no family for {name}; expected one of {len(known)} classes, from {known[0]} to {known[-1]} (the "
        f"documentation lists them){f'; the nearest is {near[0]}' if near else ''}. To add it, write a subclass of "
        "flowhelm.priors.pipelines.Pipeline with _ask and _text (see 'Adding a model' there)"
    )


def wrap(
    pipe: Any,
    *,
    size: tuple[int, int] | None = None,
    freeze: bool = True,
    checkpointing: bool = False,
    tiling: bool = False,
) -> Pipeline:
    """A loaded diffusers pipeline as a flow.

    Args:
        pipe: of a family in `FAMILIES`; its components are used where they are, in their dtype and on their device.
        size: (height, width) of the pictures in pixels; None for the family's own, which is large.
        freeze: put its networks in evaluation mode and switch their gradients off; gradients with respect to states and
            pictures stay. False leaves them as they are, to train them.
        checkpointing, tiling: see `load`.

    Raises:
        ValueError: an unknown family, a size that it cannot take, or something that its networks cannot do.
    """
    made = family(pipe)
    if freeze:
        for each in pipe.components.values():
            if isinstance(each, torch.nn.Module):
                each.eval().requires_grad_(False)
    flow = made(pipe, _usual(pipe) if size is None else size)
    if checkpointing:
        for part in (*flow.nets, pipe.vae):
            _enable(flow.name, part, "gradient_checkpointing")
    if tiling:
        _enable(flow.name, pipe.vae, "tiling")
    return flow


def _enable(name: str, part: Any, what: str) -> None:
    try:
        getattr(part, f"enable_{what}")()
    except (AttributeError, ValueError, NotImplementedError):
        raise ValueError(
            f"{name}: its {type(part).__name__} has no {what.replace('_', ' ')}; load it without"
        ) from None


def _usual(pipe: Any) -> tuple[int, int]:
    """The size that the pipeline itself would make."""
    net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    for side in (getattr(pipe, "default_sample_size", None), getattr(net, "config", {}).get("sample_size")):
        if isinstance(side, int):
            return (side * pipe.vae_scale_factor,) * 2
    return (1024, 1024)
