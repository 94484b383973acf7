"""Pictures drawn from a prior, as the command line and programs ask for them: opened, drawn, written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ... import transition
from ...flow import Flow
from ...priors import bundled
from ...priors.bundled import Prior
from ...transition import Transition
from ..errors import BadInput
from ..files.atomic import check_writable, put_picture
from ..files.pictures import write
from ..models import device as devices
from ..models import opening as models
from ..models import outlook as foretold
from ..models.batches import batches
from ..models.fitting import Task
from ..models.request import size_of
from ..options.signature import pick
from ..run import Planned, Run, Written
from ..show.sheet import class_rows, sheet
from .conditions import conditioned, guidance_of, own_guidance, picture_name, prior_name, settled
from .request import Drawing, DrawRequest
from .rows import Job, device_of, draw_flow, draw_jobs, jobs_of

SOLVERS = (transition.euler, transition.midpoint, transition.heun)


class Drawn(NamedTuple):
    """Pictures `(n, c, h, w)` float32 on the CPU, nominally in [-1, 1], not clamped, and the class and number of each."""

    pictures: Tensor
    jobs: Sequence[Job]


def draw(request: DrawRequest) -> Run[list[Path]]:
    """Draws pictures and writes a sheet, or each of them to a folder, or both; returns what was written.

    Raises:
        BadInput: anything that is wrong with what was asked for. Nothing is written then.
    """
    torch.set_num_threads(request.threads or torch.get_num_threads())
    request = request.changed(classes=list(dict.fromkeys(request.classes)))
    pipeline = models.is_pipeline(request.prior)
    flow = None if pipeline else _loaded(request)
    if flow is not None and not (request.classes or request.numbers or request.prompt is not None):
        request = request.changed(classes=list(flow.about.get("classes", ())))
    if request.count is None:
        request = request.changed(count=1 if pipeline else 8 if len(request.classes) > 1 else 16)
    if flow is not None:  # what is wrong with a condition is said before the long work
        conditioned(flow, request.classes or [None], request.prompt, request.numbers, None)
    out = _places(request)
    drawn = yield from (pictures(request, tell=True) if flow is None else pictures_of(flow, request, tell=True))
    rows = [("", drawn.pictures)] if pipeline else class_rows(drawn.pictures, drawn.jobs)
    written = []
    if request.each is not None:
        request.each.mkdir(exist_ok=True)
        for job, picture in zip(drawn.jobs, drawn.pictures, strict=True):
            written.append(request.each / f"{picture_name(request.prior, *job)}.png")
            write(written[-1], picture)
        yield Written(tuple(written))
    if out is not None:
        put_picture(out, sheet(rows))
        written.append(out)
        yield Written((out,))
    return written


def pictures(request: Drawing, solver: Transition | None = None, *, tell: bool = False) -> Run[Drawn]:
    """Opens the prior and draws; `solver`: another move than the request can name; `tell`: how long it takes is said before."""
    if not models.is_pipeline(request.prior):
        return (yield from pictures_of(_loaded(request), request, solver, tell=tell))
    request = request.changed(device=str(devices.to_device(request.device)))
    request = request.changed(**settled(request))
    size, count = size_of(request.size), request.count or 1
    opened = yield from models.opened(request, size=size, work=models.Work("sample", size, request.steps))
    flow = models.told(opened, request, guidance=guidance_of(request) if request.guidance else None)
    yield from models.hint(request)
    move = solver or pick("solver", request.solver, SOLVERS)
    yield Planned(count * request.steps, text=outlook(flow, 1, count, request) if tell else "")
    drawn = yield from draw_flow(flow, count, steps=request.steps, solver=move, seed=request.seed)
    return Drawn(drawn, jobs_of([], count))


def pictures_of(flow: Prior, request: Drawing, solver: Transition | None = None, *, tell: bool = False) -> Run[Drawn]:
    """The same from a prior that is open."""
    told = bool(request.classes or request.prompt is not None or request.numbers)
    rule = guidance_of(request) or (own_guidance(flow) if told else None)
    jobs = jobs_of(request.classes, request.count or 1)
    rows = batches(flow, len(jobs), rule is not None)
    count = math.ceil(len(jobs) / rows)
    text = ""
    if tell:
        labels = [label for label, _ in jobs[:rows]]
        text = outlook(conditioned(flow, labels, request.prompt, request.numbers, rule), rows, count, request)
    yield Planned(count * request.steps, text=text)
    move = solver or pick("solver", request.solver, SOLVERS)
    drawn = yield from draw_jobs(
        flow, jobs, prompt=request.prompt, numbers=request.numbers, guidance=rule, steps=request.steps, solver=move,
        seed=request.seed,
    )  # fmt: skip
    return Drawn(drawn, jobs)


@torch.no_grad()
def outlook(flow: Flow, rows: int, count: int, request: Drawing) -> str:
    """How long `count` batches of so many rows take, and how much memory, if that is long; else nothing. One evaluation is timed."""
    often = count * request.steps * (1 if request.solver == "euler" else 2)
    x = torch.zeros(rows, *flow.shape, device=device_of(flow))
    one = foretold.seconds_of(lambda: flow.velocity(x, flow.times(1)[0]), x.device, often)
    return foretold.sentence(
        one * often, often * rows, lambda: Task.of(flow, "sample", {}, "denoise", {}, rows, request.steps)
    )


def _loaded(request: Drawing) -> Prior:
    settled(request)  # says which options the prior does not take
    return bundled.load(request.prior, str(devices.to_device(request.device)))


def _places(request: DrawRequest) -> Path | None:
    """Where the sheet goes, if it is wanted; BadInput, before the long work, if nothing can be written there."""
    out = request.out
    if out is None and request.each is None:
        out = Path(f"{prior_name(request.prior)}.samples.png")
    if out is not None:
        if out.suffix.lower() != ".png":
            raise BadInput(f"--out {str(out)!r}: a sheet is a PNG; name it {out.with_suffix('.png').name!r}")
        check_writable(out.parent)
    if request.each is not None:
        check_writable(request.each if request.each.exists() else request.each.parent)
    return out
