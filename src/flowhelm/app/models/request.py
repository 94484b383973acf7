"""The prior and how it is opened: the same for all kinds of work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ... import known
from ..errors import BadInput
from ..options import own
from ..options.request import Flag, Request, Untyped

Dtype = Literal["float32", "bfloat16", "float16"]
MOST_THREADS = 1024
METHOD, STEPS = "mpc_flow", 28
"""What `restore` does with a pipeline when nothing else is said."""


def is_pipeline(name: str) -> bool:
    """Whether a prior of the command line is a pipeline: a folder or a name of the hub, not a bundled one, a file or your own code."""
    return name not in known.NAMES and name not in known.STUDENTS and not own.word(name) and known.pipeline(name)


def check_prior(name: str) -> None:
    """Raises BadInput for a prior that there is none of, and for a name that the hub does not show, or does not answer for."""
    if own.word(name):
        own.check_file("prior", name)
        return
    try:
        if not is_pipeline(name):
            known.check(name)
        elif not Path(name).is_dir():
            known.fetched(name)
    except ValueError as error:
        raise BadInput(str(error)) from None


def check_flow(prior: str, kind: str | None = None, *, tokens: bool = False) -> None:
    """Raises BadInput for a prior that is no flow: one with a regressor, a compressor, or one over tokens, unless `tokens` are taken.

    Args:
        kind: of the prior, `Flow.prior_kind`, if it is known already; else it is read off its file.
    """
    kind = kind or known.kind(prior)
    if kind not in known.USUAL or (tokens and kind == "tokens"):
        return
    what = {
        "paired": "a trained restorer, which only restores",
        "codec": "a compressor, which only restores",
        "tokens": f"a prior over tokens, which draws (flowhelm sample {prior}) and restores",
    }[kind]
    raise BadInput(
        f"{prior} is {what}: flowhelm restore PHOTO --prior {prior} --method {known.USUAL[kind][0]}; take another prior here"
    )


class MemoryRequest(Request):
    """What reading may take."""

    memory: Annotated[str | None, Flag(metavar="SIZE")] = Field(
        None,
        description="Memory that a picture, mask or kernel may take to be read, such as 8GB or 512MB: what would take more is refused "
        "before it is unpacked; default: half of what is free.",
    )

    @field_validator("memory")
    @classmethod
    def _sized(cls, memory: str | None) -> str | None:
        if memory is not None:
            bytes_of(memory)
        return memory

    @property
    def budget(self) -> float | None:
        """`memory` in bytes."""
        return None if self.memory is None else bytes_of(self.memory)


_UNITS = {"k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str) -> float:
    """`"512MB"` -> 512e6; kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024. Raises BadInput."""
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([kmgt]i?)b?\s*", text.lower())
    if found is None or not float(found[1]):
        raise BadInput(f"expected an amount of memory such as 8GB or 512MB, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


class DeviceRequest(Request):
    """The device and its threads."""

    device: str = Field("cpu", description="Where to compute: cpu or cuda.")
    threads: int | None = Field(None, ge=1, le=MOST_THREADS, description="CPU threads; default: as PyTorch chooses.")


class ModelRequest(DeviceRequest):
    """A prior, and how it is opened. Opening a bundled prior refuses the options that it does not take."""

    prior: str = Field(
        known.PHOTOS,
        description="The prior: a bundled one by name, a .safetensors file, deepinv:DRUNet and others (see `flowhelm priors`), or a "
        "diffusers pipeline (a folder, or org/name).",
    )
    prompt: str | None = Field(None, description="What the picture shows, in words; for pipelines.")
    negative: str | None = Field(None, description="What the picture must not show; for guided pipelines.")
    scale: float | None = Field(None, description="Strength of the guidance; default: the pipeline's own.")
    dtype: Dtype | None = Field(
        None,
        description="Type to compute in: float32, bfloat16 or float16; default: of a pipeline bfloat16 on a GPU, of a bundled prior "
        "bfloat16 for restoring a megapixel or more on a processor with AMX, else float32.",
    )
    quantize: str | None = Field(
        None,
        description="Pack a pipeline's network into fewer bits: nf4, int8, torchao-int8, quanto-int8, or a .gguf file.",
    )
    checkpointing: bool = Field(
        False, description="Save memory: compute a pipeline's activations again in the backward pass."
    )
    tiling: bool = Field(
        False, description="Save memory: let a pipeline decode in tiles, with slightly different results."
    )
    no_plan: bool = Field(
        False, description="Load a pipeline even if `flowhelm plan` says that it does not fit into the GPU."
    )


class AdaptedRequest(ModelRequest):
    """A prior that may have an adapter."""

    adapter: Annotated[Path | None, Flag(metavar="FILE")] = Field(
        None,
        description="An adapter of the prior: a .safetensors file of `flowhelm align`, a LoRA of diffusers, or 'jpeg', which ships.",
    )
    student: Annotated[str | None, Flag(metavar="N|FILE")] = Field(
        None,
        description="Draw with a student of the prior in few calls: one that ships, by its number of calls, or a file of "
        "`flowhelm distil`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _student(cls, given: Any) -> Any:
        """A student is a prior of its own: `prior` names it from here on, in the files of the run, too."""
        if not isinstance(given, dict) or given.get("student") is None:
            return given
        rest = {name: value for name, value in given.items() if name != "student"}
        prior = rest.get("prior", cls.model_fields["prior"].default)
        return rest | {"prior": known.student(str(prior), str(given["student"]))}


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
    """Whether a method on a model fits into a GPU's memory, and with which settings."""

    model: Annotated[str, Untyped()] = Field(
        description="A bundled prior, a .safetensors file, deepinv:NAME or a diffusers pipeline."
    )
    method: Annotated[str, Untyped()] = Field(
        description="A method of `flowhelm methods` or of `flowhelm align`, or sample."
    )
    method_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the method.")
    operator_options: Annotated[dict[str, Any], Untyped()] = Field({}, description="Options of the operator.")
    vram: float = Field(gt=0, description="Memory of the GPU, in GiB.")
    size: Size = Field(None, description="Size of the pictures in pixels, one number for a square; default: its own.")
    operator: str = Field("superres", description="The kind of damage: see `flowhelm operators`.")
    particles: int = Field(1, ge=1, description="How many particles, or pictures, at a time.")
    steps: int = Field(28, ge=1, description="Steps of the method.")
    quantize: str | None = Field(
        None,
        description="Pack the weights: none, int8, nf4, nf4-double, fp8 or a GGUF type; default: the most precise that fits.",
    )
    dtype: Dtype = Field("bfloat16", description="Type of weights that are not packed.")
    tokens: int | None = Field(
        None, ge=1, description="Tokens of the prompt; default: the length to which the pipeline pads."
    )
    reserve: float = Field(1.0, ge=0, description="GiB to leave free for the driver and workspaces.")
    probe: Annotated[str | None, Flag(metavar="DEVICE")] = Field(
        None, description="Load the model, take two steps on this device (cuda), and compare the memory."
    )


class DoctorRequest(ModelRequest):
    """Whether a model is wrapped as it was trained."""

    prior: Annotated[str, Untyped()] = Field(
        description="A bundled prior, a .safetensors file of flowhelm, deepinv:NAME, a pipeline of diffusers (a folder or org/name), or "
        "module:function or file.py:function that returns a Flow (which runs that code)."
    )
    pictures: Path | None = Field(
        None, description="With MODEL: a picture, or a folder of pictures of the kind that it was trained on."
    )
    parity: bool = Field(False, description="Compare a pipeline with its flow, with the same prompt, noise and steps.")
    size: Size = Field(None, description="Size of a pipeline's pictures; default: its own.")
    steps: int = Field(4, ge=1, description="Steps of the comparison of --parity.")
    text_device: Annotated[str | None, Untyped()] = Field(None, description="Where a pipeline's text encoders compute.")


def json_file(out: Path | None) -> Path | None:
    if out is not None and out.suffix.lower() != ".json":
        raise ValueError(f"{str(out)!r}: the file is JSON; name it {out.with_suffix('.json').name!r}")
    return out


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

    _json = field_validator("out")(json_file)


class GridsRequest(DeviceRequest):
    """The best grid of a prior for each number of steps, searched for and measured."""

    prior: str = Field(description="A bundled prior by name, or a .safetensors file.")
    out: Path | None = Field(None, description="The file of grids; default: PRIOR.grids.json in this folder.")
    steps: str = Field("4,5,6,8,10,12", description="Numbers of steps, with commas.")
    solver: Literal["euler", "midpoint", "heun", "rk4", "ab", "unipc", "dpm", "deis", "res"] = Field(
        "euler", description="Solver that goes along the grids."
    )
    size: int | None = Field(None, ge=1, description="Side of the pictures; default: the prior's, at most 64.")
    guided: bool = Field(False, description="Tell the prior its classes in turn, with its own guidance.")
    fine: int = Field(100, ge=16, le=1000, description="Steps of the fine grid whose times are chosen from.")
    nodes: int = Field(16, ge=4, le=64, description="Times at which the growth of errors is measured.")
    build: int = Field(32, ge=2, description="Noises to make the grids on.")
    choose: int = Field(32, ge=2, description="Other noises, to choose the best grid on.")
    report: int = Field(64, ge=2, description="Other noises again, on which all are measured.")
    show: bool = Field(
        False, description="Print what was found before (--out, or beside the weights); search for nothing."
    )
    descent: bool = Field(False, description="Also move the times one by one while the error at the end falls: slow.")
    seed: int = Field(0, description="Seed of the noises.")

    @field_validator("steps")
    @classmethod
    def _counts(cls, steps: str) -> str:
        if not re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", steps) or not all(int(n) > 1 for n in steps.split(",")):
            raise ValueError(f"expected numbers of steps from 2 to 999 such as 4,8, got {steps!r}")
        return steps

    _json = field_validator("out")(json_file)
