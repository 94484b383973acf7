"""Which prior a piece of work takes, and how it is opened: set once for all kinds of work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..errors import BadInput
from ..options.request import Flag, Request, Untyped

Dtype = Literal["float32", "bfloat16", "float16"]
MOST_THREADS = 1024


class DeviceRequest(Request):
    """Where it is computed."""

    device: str = Field("cpu", description="Where to compute: cpu or cuda.")
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; default: as PyTorch chooses.")


class ModelRequest(DeviceRequest):
    """A prior, and how it is opened. What a bundled prior does not take is refused when it is opened."""

    prior: str = Field(
        "photos",
        description="The prior: a bundled one by name, a .safetensors file, or a diffusers pipeline (a folder, or org/name).",
    )
    prompt: str | None = Field(None, description="What the picture shows, in words; for pipelines.")
    negative: str | None = Field(None, description="What the picture must not show; for guided pipelines.")
    scale: float | None = Field(None, description="Strength of the guidance; default: the pipeline's own.")
    dtype: Dtype | None = Field(
        None, description="Type of a pipeline's weights: float32, bfloat16 or float16; default: bfloat16 on a GPU."
    )
    quantize: str | None = Field(
        None,
        description="Pack a pipeline's network into fewer bits: nf4, int8, torchao-int8, quanto-int8, or a .gguf file.",
    )
    checkpointing: bool = Field(False, description="Recompute a pipeline's activations going backward: less memory.")
    tiling: bool = Field(False, description="Let a pipeline decode in tiles: less memory, a slightly other decoder.")
    no_plan: bool = Field(False, description="Try a pipeline that should not fit into the GPU (see `flowhelm plan`).")


class AdaptedRequest(ModelRequest):
    """A prior that may have an adapter."""

    adapter: Annotated[Path | None, Flag(metavar="FILE")] = Field(
        None, description="An adapter of the prior: a .safetensors file of `flowhelm align`, or a LoRA of diffusers."
    )


Size = Annotated[str | None, Flag(metavar="HEIGHTxWIDTH")]
"""`512x768`, height first."""
MOST = 16384
"""Pixels of a side that is asked for: more is a mistake in typing, and masks of it alone would fill the memory."""


def size_of(text: str | None) -> tuple[int, int] | None:
    """`"512x768"` -> height 512, width 768; `"512"` is a square; None stays None."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[xX×]\s*([0-9]{1,6})\s*)?", text)
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (0 < height <= MOST and 0 < width <= MOST):
        raise BadInput(
            f"--size: expected HEIGHTxWIDTH in pixels such as 512x768, or one number, at most {MOST} each, got {text!r}"
        )
    return height, width


class PlanRequest(Request):
    """Does a method on a model fit into a GPU's memory, and with which settings?"""

    model: Annotated[str, Untyped()] = Field(
        description="A bundled prior, a .safetensors file or a diffusers pipeline."
    )
    method: Annotated[str, Untyped()] = Field(description="A method of `flowhelm methods`, or sample.")
    method_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the method.")
    operator_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the operator.")
    vram: float = Field(gt=0, description="Memory of the GPU, in GiB.")
    size: Size = Field(None, description="Size of the pictures in pixels, one number for a square; default: its own.")
    operator: str = Field("superres", description="What was done to the picture: see `flowhelm operators`.")
    particles: int = Field(1, ge=1, description="Particles, or pictures, at a time.")
    steps: int = Field(28, ge=1, description="Steps of the method.")
    quantize: str | None = Field(
        None,
        description="Pack the weights: none, int8, nf4, nf4-double, fp8 or a type of GGUF; default: the gentlest that fits.",
    )
    dtype: Dtype = Field("bfloat16", description="Type of weights that are not packed.")
    tokens: int | None = Field(None, ge=1, description="Tokens of the prompt; default: as the pipeline pads to.")
    reserve: float = Field(1.0, ge=0, description="GiB to leave alone, for the driver and the kernels' workspaces.")
    probe: Annotated[str | None, Flag(metavar="DEVICE")] = Field(
        None, description="Load the model, make two steps on this device (cuda), and compare."
    )


class DoctorRequest(ModelRequest):
    """Is a model what it is taken for?"""

    prior: Annotated[str, Untyped()] = Field(
        description="A bundled prior, a .safetensors file of flowhelm, a pipeline of diffusers (a folder or org/name), or "
        "module:function or file.py:function that returns a Flow (which runs that code)."
    )
    pictures: Path | None = Field(
        None, description="With MODEL: a picture, or a folder of pictures of the kind that it was trained on."
    )
    parity: bool = Field(False, description="Compare a pipeline with its flow: the same prompt, noise and steps.")
    size: Size = Field(None, description="Size of a pipeline's pictures; default: its own.")
    steps: int = Field(4, ge=1, description="Steps of the comparison of --parity.")
    text_device: Annotated[str | None, Untyped()] = Field(None, description="Where a pipeline's text encoders compute.")


class VelocityRequest(DeviceRequest):
    """The error of a prior's velocity, measured at each time."""

    prior: str = Field(description="A bundled prior by name, or a .safetensors file.")
    data: Path = Field(description="Pictures that it was not trained on: a zip archive, a folder or an .npz of arrays.")
    out: Path = Field(description="The table, a .json file.")
    folder: str = Field("", description="Take only this part of the archive or folder; of an .npz, this array.")
    images: int = Field(16, ge=1, description="How many pictures, evenly spaced by name.")
    size: int | None = Field(None, ge=1, description="Side of the centre crops; default: the prior's, at most 128.")
    points: int = Field(50, ge=2, description="How many times, from 0 to 1.")
    draws: int = Field(1, ge=1, description="Draws of the noise at each time.")
    seed: int = Field(0, description="Seed of the noise.")

    @field_validator("out")
    @classmethod
    def _json(cls, out: Path) -> Path:
        if out.suffix.lower() != ".json":
            raise ValueError(f"{str(out)!r}: a table is JSON; name it {out.with_suffix('.json').name!r}")
        return out
