"""The settings of a restoration, and of the file that a run writes, with every default filled in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from annotated_types import Ge
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from ..errors import BadInput
from ..models.request import MOST_THREADS, AdaptedRequest, Dtype, MemoryRequest
from ..options.request import Flag, Request
from .presets import Look, Quality

MOST_STEPS = 100_000
MOST_ROWS = 4096
"""Pictures that go through the network together."""
LEAST_STD, MOST_STD = 1e-6, 1e3
"""Of pixels in [-1, 1]: the square of the noise must be a number, and so must one over it."""

ITSELF = "alpha"
"""Given as a mask: the photograph's own transparency, where no file is called so."""


class Restoration(Request):
    """The damage, and how to undo it: common to `flowhelm restore`, batches, HTTP, the page, the nodes and `Restorer`."""

    operator: str = Field(description="The kind of damage: see `flowhelm operators`.")
    operator_options: dict[str, Any] = Field({}, description="Options of the operator: see `flowhelm operators NAME`.")
    method: str | None = Field(
        None, description="The method: see `flowhelm methods`; default: the preset of this kind of damage."
    )
    method_options: dict[str, Any] = Field({}, description="Options of the method: see `flowhelm methods NAME`.")
    std: Literal["auto"] | float = Field(
        "auto",
        description="How noisy the picture is: auto (estimated), or its standard deviation with pixels in [-1, 1], which is 8-bit levels "
        "/ 127.5: 0.03 slight, 0.1 strong.",
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="Steps of the method; default: those of the preset."
    )
    look: Look = Field(
        "faithful",
        description="faithful: the mean of what the picture may have been, as close as possible and smooth where nothing is known; "
        "natural: one picture that could be real, with detail.",
    )
    simulate: bool = Field(False, description="The picture is clean: degrade it first, and report PSNR and SSIM.")
    tile: Literal["auto"] | Annotated[int, Ge(0)] = Field(
        "auto",
        description="Save memory with tiles of this many pixels: auto (only where memory is short), 0 (never) or a number.",
    )
    keep: bool = Field(
        False, description="Leave measured pixels exactly as they were, with their noise; for linear operators."
    )
    warm: Annotated[float | None, Flag(metavar="TIME")] = Field(
        None,
        gt=0,
        lt=1,
        description="Start from the photograph at this time, such as 0.3, and not from noise at time 0.",
    )
    inverted: bool = Field(
        False, description="Start from the noise that the prior turns into the photograph, and not from drawn noise."
    )
    codec_error: bool = Field(False, description="Count as noise what the prior's decoder cannot draw.")
    unfade: bool = Field(
        False,
        description="Undo the fading of an old print first: low contrast and a cast, estimated cautiously from the picture.",
    )
    quality: Quality = Field(
        "fast",
        description="fast: the fewest evaluations that are near the best; best: more where that gains anything (noise), else the same. "
        "A number is the quality of the operator jpeg.",
    )

    @model_validator(mode="before")
    @classmethod
    def _whose(cls, given: Any) -> Any:
        """A number given as quality is the operator's: no word is a number."""
        if not isinstance(given, dict) or given.get("operator") != "jpeg" or given.get("quality") in get_args(Quality):
            return given
        own = given.get("operator_options") or {}
        if "quality" not in given or not isinstance(own, dict) or "quality" in own:
            return given
        rest = {name: value for name, value in given.items() if name != "quality"}
        return rest | {"operator_options": {**own, "quality": _number(given["quality"])}}

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Literal["auto"] | float) -> Literal["auto"] | float:
        if std == "auto":
            return std
        if not 0 < std < math.inf:
            raise ValueError(f"expected a number above 0, got {std}; for a photograph without noise give 0.005")
        if not LEAST_STD <= std <= MOST_STD:
            raise ValueError(f"expected a number from {LEAST_STD:g} to {MOST_STD:g}, got {std:g}")
        return std


class PictureRequest(Restoration):
    """One picture restored, by a prior that is open: over HTTP, in ComfyUI, by `Restorer`."""

    operator: str = Field("deblur", description="The kind of damage: see `flowhelm operators`.")
    seed: int = Field(0, description="The same seed gives the same result.")


class FileRequest(MemoryRequest):
    """How pictures are read from their files."""

    page: int | None = Field(
        None,
        ge=1,
        description="Which page of a file with several, counted from 1; default: the first of the largest pages.",
    )


class RestoreRequest(Restoration, FileRequest, AdaptedRequest):
    """One photograph restored."""

    photo: Path = Field(description="The photograph.")
    seed: int = Field(0, description="The same seed gives the same result.")
    out: Path | None = Field(
        None, description="Where to write the result; default: NAME.restored.png beside the photograph."
    )


class MaskRequest(Request):
    """What lies on a scan, as a mask."""

    photo: Path = Field(description="The photograph.")
    out: Path | None = Field(
        None, description="The mask; default: the photograph's name with .mask.png, beside it; .overlay.png beside it."
    )
    sensitivity: float = Field(
        0.6, ge=0, le=1, description="How much is marked: 0 hardly anything, 1 much that is no damage."
    )
    grow: int = Field(1, ge=0, le=64, description="Pixels by which what was found is widened.")
    page: int | None = Field(None, ge=1, description="Which page of several, counted from 1.")


class Underway(Request):
    """Files of a restoration that is running, or was stopped."""

    preview: bool = Field(False, description="While it runs, keep the current estimate in NAME.preview.png.")
    resume: Path | None = Field(
        None, description="Go on with a stopped run from its .resume.safetensors, which holds all settings."
    )
    trust: bool = Field(False, description="With --resume: run Python code that the file names, FILE.py:NAME.")


def _number(given: Any) -> Any:
    """What was typed as a number, which JSON must hold as one."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def _pair(given: Any) -> Any:
    """JSON knows lists alone, and what a model has looked at before it is validated counts as Python, where a list is no tuple."""
    return tuple(given) if isinstance(given, list) else given


class RestoreSettings(RestoreRequest):
    """What a run's file holds: the request with every default filled in. The same settings on the same machine give the same numbers.

    A file of a bundled prior says nothing of what only pipelines take: `stored` writes what was set.
    """

    photo: str | None  # type: ignore[assignment]  # None: a picture in memory
    out: str | None = None  # type: ignore[assignment]
    std: float
    estimated: bool = False  # the noise, from the picture
    blurred: Literal["believed", "milder", "unseen"] | None = (
        None  # how far a blur is trusted that was estimated from the picture
    )
    curve: list[Annotated[tuple[float, float], BeforeValidator(_pair)]] | None = (
        None  # what became black and white, of --unfade
    )
    tile: int | None = Field(None, ge=0)  # type: ignore[assignment]  # None: as memory asks
    method: str
    operator_options: SerializeAsAny[Request]  # type: ignore[assignment]
    method_options: SerializeAsAny[Request]  # type: ignore[assignment]
    times: list[Annotated[float, Field(ge=0, le=1)]] | None  # None: of a pipeline, before the picture's size is known
    threads: int = Field(ge=1, le=MOST_THREADS)
    dtype: Dtype | None  # None: of a bundled prior, before the picture's size is known
    text_device: str | None = None
    range: Annotated[tuple[float, float] | None, BeforeValidator(_pair)] = None  # values of black and white, of a stack
    drawn: bool = False  # one of several samples: of weighted particles one is drawn, not their mean
    measurement_seed: int | None = None  # of a simulation that several samples share
    rows: int = Field(1, ge=1, le=MOST_ROWS)  # pictures that went through the network together
    row: int = Field(0, ge=0)  # which of them this one is

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, given: Any) -> Any:
        """The options of the operator and the method that are named, checked by their own models."""
        if not isinstance(given, dict):
            return given
        return given | {
            f"{part}_options": checked(part, given[part], given.get(f"{part}_options", {}))
            for part in ("operator", "method")
            if isinstance(given.get(part), str) and not isinstance(given.get(f"{part}_options"), Request)
        }

    @property
    def operator_values(self) -> dict[str, Any]:
        """To build the operator with."""
        return _values("operator", self.operator, self.operator_options)

    @property
    def masks_itself(self) -> bool:
        """Whether what is transparent in the photograph is what is missing."""
        return (
            self.operator == "inpaint"
            and self.photo is not None
            and str(getattr(self.operator_options, "mask", "")) == self.photo
        )

    @property
    def method_values(self) -> dict[str, Any]:
        """To call the method with."""
        return _values("method", self.method, self.method_options)

    @property
    def step_count(self) -> int:
        """Steps that are made; 0 of a pipeline where nothing says how many."""
        return len(self.times) - 1 if self.times else self.steps or 0

    @property
    def particles(self) -> int:
        """Rows of the batch that one picture takes."""
        return int(getattr(self.method_options, "particles", 1))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.row >= self.rows:
            raise ValueError(f"row {self.row} of {self.rows} that ran together")
        if self.times is not None and (
            len(self.times) < 2 or any(a >= b for a, b in zip(self.times, self.times[1:], strict=False))
        ):
            raise ValueError("expected increasing times")
        return self


def function_of(part: str, name: str) -> Callable[..., Any]:
    """The operator or the method of that name. Raises BadInput."""
    from ... import operators
    from ...cards import RESTORE_OR_STEER
    from ..options.signature import pick

    return pick(part, name, operators.ALL if part == "operator" else RESTORE_OR_STEER)


def _values(part: str, name: str, chosen: Any) -> dict[str, Any]:
    from ..options.signature import values

    return values(function_of(part, name), chosen)


def checked(part: str, name: str, given: Any) -> Request:
    """Every option of an operator or a method, from what was stored."""
    from ..options.signature import complete

    if not isinstance(given, dict):
        raise BadInput(f"{name}: expected an object of options, got {given!r}")
    return complete(function_of(part, name), given)
