"""One way to any prior: bundled, from a file of flowhelm, or a pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..known import PHOTOS
from . import bundled, distilled, pipelines, tarflow
from .bundled import NAMES


def load(
    model: Any = PHOTOS,
    device: str = "cpu",
    *,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    quantize: str | None = None,
    text_device: str | None = None,
    checkpointing: bool = False,
    tiling: bool = False,
    variant: str | None = None,
) -> Any:
    """A prior, whatever it is: a `Prior` or a `Pipeline`, which are flows, or a normalising flow, a `tarflow.Normalising`. flowhelm's own.

        flowhelm.load("photos-2")
        flowhelm.load("runs/fashion/weights.safetensors")
        flowhelm.load("deepinv:DRUNet")
        flowhelm.load("fashion-tarflow")
        flowhelm.load("stabilityai/stable-diffusion-3.5-medium", "cuda", size=(512, 512)).bind(["a portrait"])
        flowhelm.load(pipe)

    Args:
        model: a bundled prior or student by name; a .safetensors file that `flowhelm train` or `flowhelm distil` wrote; one of deepinv's
            denoisers by name (`priors.denoisers`), whose weights are fetched at the first use; a folder with model_index.json or a
            name of the hub, `org/name`; or a loaded pipeline of diffusers.
        device: where it is put.
        size, dtype, quantize, text_device, checkpointing, tiling, variant: of pipelines; see `priors.pipelines.load`.

    Raises:
        ValueError: none of these, or an option that it does not take.
    """
    options: dict[str, Any] = {
        "size": size, "dtype": dtype, "quantize": quantize, "text_device": text_device, "checkpointing": checkpointing or None,
        "tiling": tiling or None, "variant": variant,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(model, str | Path):
        if not hasattr(model, "components"):
            raise ValueError(f"load: expected a name, a path or a pipeline of diffusers, got {type(model).__name__}")
        fixed = given.keys() - {"size", "checkpointing", "tiling"}
        if fixed or device != "cpu":
            raise ValueError(
                f"load: a loaded pipeline stays as it is; give {', '.join(sorted(fixed) or ['device'])} to from_pretrained or pipe.to"
            )
        return pipelines.wrap(model, size=size, checkpointing=checkpointing, tiling=tiling)
    if model not in NAMES and pipelines.named(model):
        return pipelines.load(model, device=device, **given)
    if given:
        raise ValueError(f"load: {', '.join(given)} is for pipelines of diffusers; {str(model)!r} is none")
    return tarflow.load(model, device) if bundled.kind(model) == "tarflow" else distilled.load(model, device)
