"""What a restoration leaves behind beside its picture: the run file, the resume file, and their names. Read back through models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import BadInput
from ..files import stacks
from ..files.atomic import FORMATS, put, raw_run
from ..models import opening, provenance
from ..models.device import to_device
from ..options import own
from ..options.request import Request
from ..options.signature import options
from .request import RestoreSettings, function_of


class RestoreResult(Request):
    """What came of a restoration."""

    sha256: str = Field(description="Of the numbers of the picture, before they are rounded.")
    residual: float | None = Field(description="Root mean square misfit in units of the noise; about 1 fits.")
    psnr: float | None = None
    ssim: float | None = None
    degraded_psnr: float | None = None
    degraded_ssim: float | None = None
    scored: str = ""
    seconds: float = Field(0.0, ge=0)
    evaluations: int = Field(0, ge=0)

    @property
    def scores(self) -> dict[str, float | str | None]:
        """Those that a simulation has."""
        return {name: value for name, value in self.stored().items() if name not in _NO_SCORE}


_NO_SCORE = ("sha256", "residual", "seconds", "evaluations")


class RestoreStory(Request):
    """What a run is made of: by this it can be made again."""

    settings: RestoreSettings
    inputs: dict[str, str]
    environment: dict[str, str]

    def differences(self, other: RestoreStory) -> list[str]:
        """What is another one in `other`, in lines."""
        return provenance.changes((self.inputs, self.environment), (other.inputs, other.environment))


class RestoreFile(RestoreStory):
    """A .run.json."""

    result: RestoreResult


class ResumeStory(RestoreStory):
    """The words in a resume file."""

    index: int = Field(ge=0)
    seconds: float = Field(ge=0)
    evaluations: int = Field(ge=0)
    on_device: list[str] | None = Field(None, alias="on device")


class Place(NamedTuple):
    """Where a run stands: the last whole step, the noise streams after it, and what it took so far."""

    done: int
    x: Tensor
    noise: Tensor
    carried: Mapping[str, Tensor]  # what the method needs of its last step besides the state, to go on
    clean: Tensor | None  # the estimate as a picture
    seconds: float
    evaluations: int


def story_of(settings: RestoreSettings, weights: Mapping[str, str] | None = None) -> RestoreStory:
    """What a run is made of; `weights`: their fingerprints, where they are known."""
    return RestoreStory.model_construct(
        settings=settings, inputs=inputs(settings, weights), environment=provenance.environment(settings)
    )


def paths(settings: RestoreSettings) -> dict[str, str]:
    """Files that a run reads."""
    known = options(function_of("operator", settings.operator))
    typed = [name for name, option in known.items() if Path in option.types]
    extra = {name: str(value) for name in typed if (value := getattr(settings.operator_options, name)) is not None}
    if settings.masks_itself:
        extra["mask"] = settings.photo or ""
    # an archive of kernels may be followed by the kernel's name
    extra = {
        name: v if Path(v).exists() or v == settings.photo else v.rpartition(":")[0] or v for name, v in extra.items()
    }
    prior = {} if opening.is_pipeline(settings.prior) else {"prior": str(opening.weights(settings.prior))}
    return {"photo": settings.photo or ""} | prior | extra


def inputs(settings: RestoreSettings, weights: Mapping[str, str] | None = None) -> dict[str, str]:
    """Hashes of what a run reads."""
    read = {name: path for name, path in paths(settings).items() if name != "prior"}
    found = {f"{name} sha256": stacks.sha256(path) for name, path in read.items()}
    found |= own.fingerprints((part, getattr(settings, part)) for part in ("operator", "method"))
    return found | dict(provenance.weights(settings) if weights is None else weights)


# --- names ---

RESUME = ".resume.safetensors"
"""How the name of a file ends from which a run goes on."""


def outputs(out: Path) -> dict[str, Path]:
    """Where the files of a run go: all beside the result, all beginning like it."""
    stem = out.stem.removesuffix(".restored")
    names = {
        "strip": "strip.png", "run": "run.json", "degraded": "degraded.png", "preview": "preview.png", "partial": "partial.png",
        "resume": RESUME[1:],
    }  # fmt: skip
    return {"out": out} | {what: out.with_name(f"{stem}.{end}") for what, end in names.items()}


def check_outputs(out: Path, read: Sequence[str]) -> None:
    """Raises BadInput if the result cannot have that name, or a file of the run would replace one that it reads."""
    if out.suffix.lower() not in FORMATS:
        raise BadInput(f"--out {str(out)!r} has no known picture suffix; name it one of {' '.join(FORMATS)}")
    taken = {Path(path).resolve() for path in read}
    for path in outputs(out).values():
        if path.resolve() in taken:
            raise BadInput(f"{str(path)!r} would be overwritten, but is read; choose another --out")


# --- files ---


def get_run(path: Path) -> RestoreFile:
    """What a restoration wrote about itself. Raises BadInput for any other file."""
    return RestoreFile.of_json(raw_run(path), f"{str(path)!r} is not the .run.json file of a restoration")


def put_resume(path: Path, place: Place, story: RestoreStory) -> None:
    """State, noise streams and what the method carries from step to step as tensors; the story as JSON."""
    # copies: a file does not take two tensors that share their memory
    tensors = {
        name: each.detach().cpu().contiguous().clone()
        for name, each in {**place.carried, "x": place.x, "noise": place.noise}.items()
    }
    elsewhere = sorted(name for name, each in place.carried.items() if each.device.type != "cpu")
    words = {
        **story.stored(), "index": place.done, "seconds": place.seconds, "evaluations": place.evaluations, "on device": elsewhere,
    }  # fmt: skip
    text = json.dumps(words, sort_keys=True)
    put(path, lambda temporary: save_file(tensors, temporary, {"flowhelm": text}))


def code_of_resume(path: Path) -> list[str]:
    """The code that a resume file names; nothing of any other file, of which `get_resume` says what is wrong."""
    try:
        with safe_open(path, framework="pt") as file:
            return own.words_of(json.loads((file.metadata() or {})["flowhelm"])["settings"])
    except Exception:  # safetensors raises its own type
        return []


def get_resume(path: Path) -> tuple[Place, ResumeStory]:
    """What `put_resume` wrote; what was carried is on the run's device again. Raises BadInput for any other file."""
    if not path.is_file():
        raise BadInput(f"{str(path)!r} does not exist; --resume takes the .resume.safetensors file of a stopped run")
    who = f"{str(path)!r} is not a resume file of flowhelm"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (a handle, not a dict)
            raw = json.loads((file.metadata() or {})["flowhelm"])
        x, noise = tensors.pop("x"), tensors.pop("noise")
    except Exception as error:  # safetensors raises its own type
        raise BadInput(f"{who} ({error}); start the run again") from error
    story = ResumeStory.of_json(raw, who)
    times = story.settings.times
    if times is None or story.index >= len(times):
        raise BadInput(f"{who}: step {story.index} of {0 if times is None else len(times) - 1}; start the run again")
    there = story.on_device if story.on_device is not None else list(tensors)
    device = to_device(story.settings.device)
    carried = {name: each.to(device) if name in there else each for name, each in tensors.items()}
    return Place(story.index, x, noise, carried, None, story.seconds, story.evaluations), story
