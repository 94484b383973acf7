"""Is everything in place, and is a model what it is taken for? Also the one place that finds out whether torchvision fits torch."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ...known import PHOTOS, PICKLES
from ..errors import BadInput, Broken, first_line
from ..options import own
from ..run import Run, Said, drive
from .request import DoctorRequest, ModelRequest, check_flow, size_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...flow import Flow
    from ...priors.examine import Finding

COUNT = 4
"""Pictures that a model is examined on."""
SIDE = 64
"""Their size for priors of any size; a quarter of a megapixel would take minutes."""


@cache
def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _importable(package: str, wrong: str, again: str) -> None:
    """Raises Broken, which says what is `wrong` and what to install `again`."""
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise Broken(f"{wrong} ({first_line(error)}); mend it with: pip install --force-reinstall {again}") from error


def check_torchvision() -> None:
    """Raises Broken if torchvision cannot be imported, which deepinv does: it is built for exactly one torch."""
    wrong = f"torchvision {installed('torchvision')} does not fit torch {installed('torch')}"
    _importable("torchvision", wrong, "torch torchvision")


def check_operator(name: str | None) -> None:
    """Raises Broken if what an operator is made of cannot be imported. The identity needs nothing."""
    if name != "denoise":
        check_deepinv()


def check_deepinv() -> None:
    check_torchvision()
    _importable("deepinv", f"deepinv {installed('deepinv')} cannot be imported", "deepinv")


def doctor(prior: str = PHOTOS) -> Iterator[tuple[str, str]]:
    """(what, how it is), one after another; raises at the first thing that does not work."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    _importable("torch", "torch cannot be imported", "torch torchvision")
    import torch

    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    check_torchvision()
    yield "torchvision", f"{installed('torchvision')}, fits torch"
    check_deepinv()
    yield "deepinv", installed("deepinv")
    yield "device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    from ...priors import bundled
    from ..files.atomic import sha256

    flow = bundled.load(prior)
    yield "prior", f"{prior}, sha256 {sha256(bundled.weights(prior))[:16]}"
    small = flow.sized(64, 64)
    start = time.monotonic()
    with torch.no_grad():
        v = small.velocity(torch.zeros(1, *small.shape), torch.tensor(0.5, dtype=torch.float64))
    if not v.isfinite().all():
        raise Broken(f"prior {prior} gives infinite values; install flowhelm again")
    yield "evaluation", f"64 x 64 in {time.monotonic() - start:.2f} s"


def load_model(model: str) -> Flow:
    """A flow by name.

    Args:
        model: a bundled prior, a .safetensors file of flowhelm, deepinv:DRUNet and others, a pipeline of diffusers (a folder or
            org/name, with the empty text), or `module:function` or `file.py:function`: that code is run if somebody trusts it (see
            `options.own`), with the working directory on the path, and the function is called without arguments and returns a Flow.

    Raises BadInput, saying what and why: above all for files that are pickles, which may run any code when they are read.
    """
    from ... import priors
    from ...priors import bundled, denoisers
    from . import opening as models

    if model.lower().endswith(PICKLES):
        raise BadInput(
            f"{model!r} looks like a pickle, which can run any code when it is read, and holds no convention either; write a "
            "function that loads its weights (torch.load(..., weights_only=True)) and returns a Flow, and give file.py:function"
        )
    if model in priors.NAMES or model.endswith(".safetensors") or denoisers.named(model):
        check_flow(model)
        return bundled.load(model)
    if models.is_pipeline(model):
        request = ModelRequest(prior=model)
        request = request.changed(**models.settled(request))
        return models.told(drive(models.opened(request)), request)
    if not own.word(model):
        raise BadInput(
            f"model {model!r}: expected one of {', '.join(priors.NAMES)}, a .safetensors file, deepinv:NAME, a pipeline (folder or "
            "org/name), module:function or file.py:function"
        )
    return models.of_code(model)


def examine_model(model: str, pictures: Path | None = None, *, flow: Flow | None = None) -> list[Finding]:
    """What `priors.examine` finds out about a model.

    Args:
        model: see `load_model`. A bundled prior of any size is examined at 64 x 64.
        pictures: a picture, or a folder of which the first 4 are taken; scaled and cut to the model's size. Without, a bundled
            prior is examined on the pictures that come with it, or on drawn ones, and of others less is checked.
        flow: the model, if it is open already.
    """
    import torch

    from ... import priors
    from ...priors import denoisers
    from ...priors.bundled import Prior
    from ...priors.examine import examine
    from ...rng import Noise

    flow = load_model(model) if flow is None else flow
    with torch.no_grad():
        shape = tuple(flow.decode(torch.zeros(1, *flow.shape)).shape[1:])
    if pictures is None and (model in priors.NAMES or denoisers.named(model)):
        packed = Path(str(files("flowhelm.priors"))) / "samples" / model
        image: Tensor | None = _read(packed, shape) if packed.is_dir() else _drawn(shape)
    else:
        image = None if pictures is None else _read(pictures, shape)
    if isinstance(flow, Prior) and min(flow.shape[1:]) > SIDE:
        flow = flow.sized(SIDE, SIDE)
        top, left = ((side - SIDE) // 2 for side in shape[1:])
        image = None if image is None else image[..., top : top + SIDE, left : left + SIDE]
    bound = max((len(c) for c in getattr(flow, "condition", ())), default=1)
    if image is None:
        return examine(flow, None, Noise(0, bound * -(-COUNT // bound)))
    if len(image) % bound:
        image = image.repeat_interleave(bound, 0)
    with torch.no_grad():
        clean = flow.encode(image)
    return examine(flow, clean, Noise(0, len(clean)))


def examined(request: DoctorRequest) -> Run[bool]:
    """What is found out about a model, a line each; whether nothing is broken."""
    from . import opening

    if not opening.is_pipeline(request.prior):
        opening.settled(request)  # refuses what only pipelines take
        if request.parity or request.size is not None:
            word = "parity" if request.parity else "size"
            raise BadInput(f"--{word} is for pipelines of diffusers (a folder or org/name), not {request.prior!r}")
        flow = load_model(request.prior)
    else:
        whole = request.changed(**opening.settled(request))
        size = size_of(request.size)
        if request.parity:
            return (yield from _parity(whole, size))
        flow = opening.told((yield from opening.opened(whole, size=size)), whole)
    found = examine_model(request.prior, request.pictures, flow=flow)
    for each in found:
        yield Said(f"{each.name:12} {each.verdict:8} {each.words}")
    broken = [each for each in found if each.verdict == "broken"]
    if broken:
        named = next((each for each in broken if each.name == "convention"), broken[0])
        yield Said(f"broken: {named.words}")
        return False
    verdicts = {each.verdict for each in found}
    well = "nothing is broken; look at what is odd" if "odd" in verdicts else "all well"
    yield Said("well as far as it could be checked; give --pictures for the rest" if "skipped" in verdicts else well)
    return True


def _parity(request: DoctorRequest, size: tuple[int, int] | None) -> Run[bool]:
    """How far a pipeline and its flow are from one another, and whether that is what the dtype explains."""
    from ...priors.pipelines.parity import compare
    from . import opening

    flow = yield from opening.opened(request.changed(text_device=request.device), size=size)
    if getattr(flow.pipe, "text_encoder", None) is None:
        raise BadInput(f"--parity: {flow.name} has no text encoder here; load it with one")
    found = compare(flow.pipe, size=flow.size, prompt=request.prompt or "", scale=request.scale, steps=request.steps)
    yield Said(f"{found.name}, {flow.size[0]} x {flow.size[1]}, {request.steps} steps, {request.dtype}")
    yield Said(
        f"latents      {found.latents:.1e} apart (of the largest, if that is above 1); {found.tolerance:.0e} is allowed for the dtype"
    )
    yield Said(f"pixels       {found.pixels:.1e} apart, in [0, 1]")
    yield Said(
        f"calls        {found.calls} of the pipeline, {found.ours} of the flow; {found.seconds:.2f} and {found.own:.2f} s"
    )
    yield Said(f"gradient     {'finite' if found.gradient else 'WRONG: not finite, or 0'}")
    yield Said("the flow gives what the pipeline gives" if found.good else "broken: the flow is not the pipeline")
    return found.good


def _read(where: Path, shape: tuple[int, ...]) -> Tensor:
    """The pictures of a file or folder: `(n, c, h, w)` of `shape`, scaled to cover it and cut in the middle."""
    import torch
    from torch.nn.functional import interpolate

    from ..files.atomic import READ
    from ..files.pictures import read

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise BadInput(
            f"the model's pictures are of shape {shape}; --pictures is for models of (1 or 3, height, width)"
        )
    found = sorted(p for p in where.iterdir() if p.suffix.lower() in READ) if where.is_dir() else [where]
    if not found:
        raise BadInput(f"{str(where)!r} holds no pictures; expected {' '.join(sorted(READ))}")
    cut = []
    for path in found[:COUNT]:
        pixels = read(path, channels=shape[0]).pixels
        scale = max(shape[1] / pixels.shape[-2], shape[2] / pixels.shape[-1])
        size = [max(round(scale * side), least) for side, least in zip(pixels.shape[-2:], shape[1:], strict=True)]
        pixels = interpolate(pixels, size, mode="bicubic", antialias=True).clamp(-1, 1)
        top, left = (size[0] - shape[1]) // 2, (size[1] - shape[2]) // 2
        cut.append(pixels[..., top : top + shape[1], left : left + shape[2]])
    return torch.cat(cut)


def _drawn(shape: tuple[int, ...]) -> Tensor:
    """Dead leaves: discs of all sizes and colours, one over the other, which have the statistics of photographs (Lee, Mumford &
    Huang 2001, IJCV 41). `(4, c, h, w)` in [-1, 1], always the same.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pictures = torch.zeros(COUNT, *shape)
    for picture in pictures:
        for _ in range(500):
            place = torch.rand(3 + channels, generator=generator)
            # of density 1 / r^3, up to half the side
            radius = max(height, width) / 30 / (1 - place[2] * (1 - (2 / 30) ** 2)).sqrt()
            disc = (rows - height * place[0]) ** 2 + (columns - width * place[1]) ** 2 < radius**2
            shade = 0.7 * (2 * place[3] - 1) + 0.3 * (2 * place[3:] - 1)  # mostly grey
            picture[:, disc] = shade[:, None]
    return pictures
