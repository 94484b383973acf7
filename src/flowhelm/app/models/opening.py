"""Pipelines of diffusers at the command line: which words name one, how it is opened and told a prompt, and its fingerprint."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ...flow import PURE, Flow, Guidance
from ...known import STUDENTS
from ...priors import adapters, bundled, distilled, pipelines
from ...priors.bundled import NAMES, Prior
from ...priors.pipelines import Pipeline
from ...priors.pipelines.hub import cached
from ..errors import BadInput, first_line
from ..options import own
from ..run import Event, Noted, Run
from . import precision
from .request import METHOD as METHOD
from .request import STEPS as STEPS
from .request import ModelRequest, check_flow
from .request import is_pipeline as is_pipeline

F = TypeVar("F", bound=Flow)
OF_PIPELINES = ("prompt", "negative", "scale", "quantize", "checkpointing", "tiling", "no_plan")
"""Fields of a request that a bundled prior does not take."""
PACKED = {None: "none", "nf4": "nf4", "int8": "int8", "torchao-int8": "int8", "quanto-int8": "int8"}
"""What a plan calls that which `--quantize` asks for."""
_WHOLE = 2**21
_PARTS = {".safetensors", ".json", ".txt", ".model", ".jinja"}


class Work(NamedTuple):
    """What a pipeline is opened for, by the names of `plan`."""

    method: str
    size: tuple[int, int] | None
    steps: int
    options: Mapping[str, Any] = {}
    operator: str = "denoise"
    operator_options: Mapping[str, Any] = {}


def plain(name: str, device: str = "cpu") -> Prior:
    """A prior that is no pipeline: a bundled one, one of a .safetensors file, or your own, FILE.py:NAME (a Flow, which may lack what
    only bundled ones have). Raises BadInput."""
    if own.word(name):
        return of_code(name, device)  # type: ignore[return-value]
    return distilled.load(name, device)


def of_code(name: str, device: str = "cpu") -> Flow:
    """The flow that a function of your own returns; it is called with `device=` if it takes that, else without arguments."""
    function = own.load("prior", name)
    takes = "device" in inspect.signature(function).parameters
    try:
        flow = function(device=device) if takes else function()
    except Exception as error:  # a stranger's code raises anything
        raise BadInput(
            f"prior {own.short(name)} cannot be made ({type(error).__name__}: {first_line(error)}); mend the function"
        ) from error
    if not isinstance(flow, Flow):
        raise BadInput(
            f"prior {own.short(name)} returns {type(flow).__name__}; return a Flow, made by priors.from_velocity for instance"
        )
    return flow


def name_of(flow: Flow, prior: str) -> str:
    """What a prior is called in tables: `photos`, or the word of your own code."""
    return own.short(prior) if own.word(prior) else str(getattr(flow, "name", prior))


def weights(name: str) -> Path:
    """The file that a prior is made of: its weights, or the code of your own."""
    return own.file(name) if own.word(name) else bundled.weights(name)


def settled(request: ModelRequest) -> dict[str, Any]:
    """What a run's settings say of its prior, every default filled in; of a bundled prior the type that it computes in alone.

    Raises:
        BadInput: an option that a bundled prior does not take.
    """
    given = {name: getattr(request, name) for name in OF_PIPELINES}
    if not is_pipeline(request.prior):
        typed = [name for name, value in given.items() if value not in (None, False)]
        if typed:
            raise BadInput(
                f"--{typed[0].replace('_', '-')} is for pipelines of diffusers (a folder, or a name of the hub); "
                f"the prior {request.prior!r} takes none"
            )
        return {"dtype": request.dtype or "float32"}
    quantize = request.quantize
    return given | {
        "prompt": request.prompt or "",
        "dtype": request.dtype or ("bfloat16" if request.device.startswith("cuda") else "float32"),
        "quantize": str(Path(quantize).absolute()) if quantize and quantize.endswith(".gguf") else quantize,
    }


def check_draws(prior: str, *, tokens: bool = False) -> None:
    """Raises BadInput for a prior that was not trained for noise alone, which is what drawing begins with; of one over tokens, unless
    `tokens` are taken."""
    check_flow(prior, tokens=tokens)
    most = bundled.levels(prior)[1]
    if most < PURE:
        raise BadInput(
            f"{prior} was trained for noise up to {most:.2g} only: it restores (flowhelm restore --prior {prior}), it does not draw; "
            "take a bundled prior or a pipeline"
        )


def where(prior: str) -> str:
    """A prior as a run's file names it: a file or a folder by its whole path."""
    whole = own.word(prior)
    return whole or (
        prior if prior in NAMES or prior in STUDENTS or not Path(prior).exists() else str(Path(prior).absolute())
    )


def opened(request: ModelRequest, *, size: tuple[int, int] | None = None, work: Work | None = None) -> Run[Pipeline]:
    """The pipeline of a run's settings, not told anything yet.

    Raises:
        BadInput: there is a plan for `work`, and by it the run would not fit into the memory that is free on the GPU.
    """
    if work is not None and request.device.startswith("cuda") and not request.no_plan:
        yield from _check(request, work)
    pipe = pipelines.load(
        request.prior, size=size, dtype=getattr(torch, request.dtype or "float32"), device=request.device, quantize=request.quantize,
        text_device=getattr(request, "text_device", None), checkpointing=request.checkpointing, tiling=request.tiling,
    )  # fmt: skip
    return adapted(pipe, request)


def bundled_prior(request: ModelRequest, device: str) -> Prior:
    """The bundled prior of a run's settings, with its adapter if there is one, computing in the type that they say."""
    return precision.computing(adapted(plain(request.prior, device), request), request.dtype or "float32")


def adapted(flow: F, request: ModelRequest) -> F:
    """A prior with the adapter of a run's settings folded into its weights; itself if there is none, or if it has that one already."""
    path, about = getattr(request, "adapter", None), getattr(flow, "about", {})
    if path is None or about.get("adapter") == (name := _adapter_name(path)):
        return flow
    made = adapters.applied(flow, path)
    return replace(made, about={**about, "adapter": name}) if isinstance(made, Prior) else made


def adapter_path(request: ModelRequest) -> dict[str, str]:
    """What a run's file says of it: its whole path, or nothing."""
    path = getattr(request, "adapter", None)
    if path is None:
        return {}
    adapters.read(path)  # what is wrong with it is said at once
    return {"adapter": _adapter_name(path)}


def _adapter_name(path: Path) -> str:
    return str(path if adapters.place(path) != path else path.absolute())


def free(device: str) -> int:
    """Bytes that nobody uses on a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def _check(request: ModelRequest, work: Work) -> Run[None]:
    """Refuses what is sure to run out of memory, before the weights are read. No reserve is asked for: that may be enough."""
    from .fitting import GIB, Settings
    from .plan import plan

    scheme = PACKED.get(request.quantize)
    if scheme is None:  # of a .gguf file only its reader knows the types
        return
    parts = ("network", "decoder") if request.checkpointing else ()
    try:
        found = plan(
            request.prior, work.method, vram=free(request.device) / GIB, size=work.size, operator=work.operator,
            operator_options=work.operator_options, options=work.options, steps=work.steps, scale=request.scale,
            settings=Settings(scheme, parts, tiling=request.tiling), dtype=getattr(torch, request.dtype or "float32"), reserve=0.0,
        )  # fmt: skip
    except Exception as error:  # of diffusers, or of a stranger's configs: loading says what is wrong with them
        yield Noted(f"whether it fits into the GPU could not be found out ({first_line(error)})")
        return
    if not found.fits:
        raise BadInput(f"{found.sentence}; --no-plan tries it all the same")


def told(flow: Pipeline, request: ModelRequest, *, guidance: Guidance | None = None) -> Pipeline:
    """The pipeline with the prompt of a run's settings, for every row."""
    bound = flow.bind([request.prompt or ""], negative=request.negative, scale=request.scale, guidance=guidance)
    if request.negative and bound.null is None:
        raise BadInput(f"--negative: {flow.name} compares with nothing at this --scale, or has no second prompt")
    return bound


def hint(request: ModelRequest) -> Iterator[Event]:
    """A note where a pipeline is given no prompt."""
    if is_pipeline(request.prior) and not request.prompt:
        yield Noted("no --prompt is given; the empty text is used")


def fingerprint(name: str) -> str:
    """sha256 over the names and sizes of a pipeline's files, and what is in them: of files over 2 MiB, the first and last MiB.

    Weights of tens of GiB are told apart at once by it; it is no proof against one who means to deceive.
    """
    folder = cached(name)
    inside = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.suffix in _PARTS and p.is_file()]
    return fingerprint_of(folder, [path for path in inside if not any(part.startswith(".") for part in path.parts)])


def fingerprint_of(folder: Path, inside: Sequence[Path]) -> str:
    """The same of these files in a folder."""
    found = hashlib.sha256()
    for path in inside:
        with open(folder / path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            found.update(f"{path.as_posix()}\0{size}\0".encode())
            if size > _WHOLE:
                found.update(file.read(_WHOLE // 2))
                file.seek(-(_WHOLE // 2), 2)
            found.update(file.read())
    return found.hexdigest()
