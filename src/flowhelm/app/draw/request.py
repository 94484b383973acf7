"""What may be set for a drawing: `flowhelm sample`, `flowhelm.generate`, the page and programs have it in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..models.request import AdaptedRequest, Size
from ..options.request import Flag

Solver = Literal["euler", "midpoint", "heun"]
GuidanceName = Literal["cfg", "raag", "cfg_zero"]
Classes = Annotated[list[str], Flag(("--class",))]
Numbers = Annotated[dict[str, float], Flag(("--number",), "NAME=VALUE")]


class Conditions(AdaptedRequest):
    """What the pictures show, and how strictly they follow it: of a drawing, and of a steered one."""

    prior: str = Field(
        description="The prior: a bundled one by name (see `flowhelm priors`), a .safetensors file, or a diffusers pipeline (a folder, "
        "or org/name)."
    )
    classes: Classes = Field([], description="A class that a bundled prior knows; may be given several times.")
    prompt: str | None = Field(
        None, description="What the pictures show: for a pipeline any text, for a bundled prior words that it knows."
    )
    numbers: Numbers = Field({}, description="A number that a bundled prior knows; may be given several times.")
    scale: float | None = Field(
        None, description="Strength of guidance: 1 is none, 1.5 to 4 usual; default: the prior's."
    )
    guidance: GuidanceName | None = Field(
        None, description="Rule of the guidance: cfg, raag or cfg_zero; default: cfg, or the pipeline's own rule."
    )
    size: Size = Field(None, description="Size of a pipeline's pictures; default: its own.")
    seed: int = Field(0, description="The same seed gives the same pictures.")

    @field_validator("scale", mode="before")
    @classmethod
    def _finite(cls, scale: Any) -> Any:
        if isinstance(scale, float) and not math.isfinite(scale):
            raise ValueError(f"expected a finite number such as 2, got {scale}")
        return scale

    @field_validator("size", mode="before")
    @classmethod
    def _pair(cls, size: Any) -> Any:
        """(height, width), as Python callers have it."""
        return f"{size[0]}x{size[1]}" if isinstance(size, tuple | list) and len(size) == 2 else size


class Drawing(Conditions):
    """Pictures drawn from a prior, as tensors: by `flowhelm.generate`."""

    steps: int = Field(25, ge=1, description="Steps of the solver.")
    solver: Solver = Field("euler", description="Solver of the flow: euler, midpoint or heun.")
    count: Annotated[int | None, Flag(("-n",))] = Field(
        None, ge=1, description="Pictures (of each class); default: 16; of several classes 8 each; of a pipeline 1."
    )


class DrawRequest(Drawing):
    """Pictures drawn from a prior, and written."""

    out: Path | None = Field(None, description="The sheet of pictures, a PNG; default: PRIOR.samples.png.")
    each: Annotated[Path | None, Flag(metavar="FOLDER")] = Field(
        None, description="Write each picture into this folder (and a sheet only with --out)."
    )
