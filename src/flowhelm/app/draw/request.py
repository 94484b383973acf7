"""What may be set for a drawing: `flowhelm sample`, `flowhelm.generate`, the page and programs have it in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator

from ..errors import nearest
from ..models.request import AdaptedRequest, Size
from ..options.request import Flag, brief

SOLVERS = (
    "auto", "euler", "midpoint", "heun", "rk4", "pseudo", "rk45", "ab", "dpm", "unipc", "deis", "res", "ghvb", "hb", "dual_fast",
    "ancestral_euler", "er_sde", "picard", "jumps", "flow_turbo", "bottleneck", "unmasking",
)  # fmt: skip
"""`flowhelm.sample.ALL` and `TOKENS`, whose module help does not wait for."""
GRIDS = ("own", "uniform", "shifted", "arc", "logit", "boss")


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def check(words: str) -> str:
        name = words.partition(":")[0]
        if name not in names:
            raise ValueError(f"there is no {brief(name)}; {nearest(name, names)}")
        return words

    return AfterValidator(check)


def _pattern(names: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(names)})(:.*)?$"})


Solver = Annotated[str, _one_of(SOLVERS), _pattern(SOLVERS)]
Grid = Annotated[str, _one_of(GRIDS), _pattern(GRIDS)]
GuidanceName = Literal["cfg", "raag", "cfg_zero"]
Inverse = Literal["sequential", "jacobi", "gs-jacobi", "starflow-v"]
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

    steps: int = Field(25, ge=1, description="Steps of the solver; default: 25, of a student its own number of calls.")
    solver: Solver = Field(
        "auto",
        description="Solver of the flow, NAME or NAME:option=value,...: euler, heun, ab, unipc, dpm, ...; auto: what erred least on the "
        "prior with so many evaluations, at 4 what drew the best pictures (of a pipeline euler, of tokens unmasking).",
    )
    grid: Grid | None = Field(
        None,
        description="Times of the steps: own (the prior's), uniform, shifted:shift=3, arc, logit, or boss (searched by `flowhelm grids`); "
        "default: own, for auto what it was measured with.",
    )
    inverse: Inverse | None = Field(
        None,
        description="How a normalising flow (fashion-tarflow) goes from noise to picture: sequential (token by token), jacobi (all tokens "
        "at once, again and again), gs-jacobi (segment by segment) or, of videos, starflow-v (frame by frame, each from the one before); "
        "default: sequential, of videos starflow-v.",
    )
    cleanup: bool = Field(
        True, description="Take the training's noise out of what a normalising flow draws (Tweedie's formula)."
    )
    reuse: int = Field(
        1,
        ge=1,
        description="Ask for the unguided half of guidance only every so many evaluations, and use it again between; 1: always.",
    )
    count: Annotated[int | None, Flag(("-n",))] = Field(
        None, ge=1, description="Pictures (of each class); default: 16; of several classes 8 each; of a pipeline 1."
    )


class DrawRequest(Drawing):
    """Pictures drawn from a prior, and written."""

    out: Path | None = Field(None, description="The sheet of pictures, a PNG; default: PRIOR.samples.png.")
    each: Annotated[Path | None, Flag(metavar="FOLDER")] = Field(
        None, description="Write each picture into this folder (and a sheet only with --out)."
    )
