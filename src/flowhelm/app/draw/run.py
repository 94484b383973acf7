"""Pictures drawn from a prior, as the command line and programs ask for them: opened, drawn, written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...flow import Flow
from ...masked import Masked
from ...priors.bundled import Prior, kind
from ...solve import Solver
from ...transition import Transition
from ..errors import BadInput
from ..files.atomic import check_writable, put, put_picture
from ..files.pictures import write
from ..models import device as devices
from ..models import opening as models
from ..models import outlook as foretold
from ..models.batches import batches
from ..models.fitting import Task
from ..models.request import size_of
from ..run import Planned, Run, Said, Written
from ..show.sheet import class_rows, films, moving, sheet
from . import bijections
from .conditions import conditioned, guidance_of, own_guidance, picture_name, prior_name, settled
from .request import Drawing, DrawRequest
from .rows import Job, device_of, draw_flow, draw_jobs, jobs_of
from .solvers import CALLS, Way
from .solvers import settled as settled_way

R = TypeVar("R", bound=Drawing)


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
    if kind(request.prior) == "tarflow":
        return (yield from _drawn_at_once(request))
    if request.inverse is not None or not request.cleanup:
        word = "no-cleanup" if request.inverse is None else "inverse"
        raise BadInput(f"--{word} is for normalising flows; the prior {request.prior!r} is none: leave it out")
    pipeline = models.is_pipeline(request.prior)
    flow = None if pipeline else _loaded(request)
    if flow is not None and not (request.classes or request.numbers or request.prompt is not None):
        request = request.changed(classes=list(getattr(flow, "about", {}).get("classes", ())))
    if request.count is None:
        request = request.changed(count=1 if pipeline else 8 if len(request.classes) > 1 else 16)
    if flow is not None:  # what is wrong with a condition is said before the long work
        conditioned(flow, request.classes or [None], request.prompt, request.numbers, None)
    out = _places(request)
    drawn = yield from (pictures(request, tell=True) if flow is None else pictures_of(flow, request, tell=True))
    return (yield from _written(drawn, request, out, pipeline))


def _drawn_at_once(request: DrawRequest) -> Run[list[Path]]:
    """By a normalising flow."""
    flow = bijections.loaded(request)
    request = request.changed(classes=request.classes or list(flow.about.get("classes", ())))
    if request.count is None:
        several = len(request.classes) > 1
        request = request.changed(count=(2 if several else 4) if flow.net.frames else 8 if several else 16)
    out, jobs = _places(request), jobs_of(request.classes, request.count or 1)
    drawn = yield from bijections.draw_bijection(flow, jobs, **bijections.how(request))
    return (yield from _written(Drawn(drawn, jobs), request, out, False))


def _written(drawn: Drawn, request: DrawRequest, out: Path | None, pipeline: bool) -> Run[list[Path]]:
    rows = [("", drawn.pictures)] if pipeline else class_rows(drawn.pictures, drawn.jobs)
    video = drawn.pictures.ndim == 5
    written = []
    if request.each is not None:
        request.each.mkdir(exist_ok=True)
        for job, picture in zip(drawn.jobs, drawn.pictures, strict=True):
            name = picture_name(request.prior, *job)
            written.append(request.each / f"{name}.{'gif' if video else 'png'}")
            if video:
                _put_film(written[-1], [("", picture[None])])
            else:
                write(written[-1], picture)
        yield Written(tuple(written))
    if out is not None:
        put_picture(out, sheet(films(rows) if video else rows))
        made = [out]
        if video:
            made.append(out.with_suffix(".gif"))
            _put_film(made[-1], rows)
        written += made
        yield Written(tuple(made))
    return written


def _put_film(path: Path, rows: Sequence[tuple[str, Tensor]]) -> None:
    put(path, lambda temporary: moving(rows, temporary))


def pictures(request: Drawing, solver: Solver | Transition | None = None, *, tell: bool = False) -> Run[Drawn]:
    """Opens the prior and draws; `solver`: another than the request can name; `tell`: say before how long it takes."""
    if not models.is_pipeline(request.prior):
        return (yield from pictures_of(_loaded(request), request, solver, tell=tell))
    request = request.changed(device=str(devices.to_device(request.device)))
    request = request.changed(**settled(request))
    size, count = size_of(request.size), request.count or 1
    opened = yield from models.opened(request, size=size, work=models.Work("sample", size, request.steps))
    flow = models.told(opened, request, guidance=guidance_of(request) if request.guidance else None)
    yield from models.hint(request)
    way = Way.of(request, solver)
    said, steps = _said(flow, way)
    yield said
    yield Planned(count * steps, text=outlook(flow, 1, count, request) if tell else "")
    drawn = yield from draw_flow(flow, count, way)
    return Drawn(drawn, jobs_of([], count))


def pictures_of(
    flow: Prior, request: Drawing, solver: Solver | Transition | None = None, *, tell: bool = False
) -> Run[Drawn]:
    """The same from a prior that is open."""
    request = calls_of(flow, request)
    told = bool(request.classes or request.prompt is not None or request.numbers)
    rule = guidance_of(request) or (own_guidance(flow) if told else None)
    jobs, way = jobs_of(request.classes, request.count or 1), Way.of(request, solver)
    said, steps = _said(flow, way)
    yield said
    rows = batches(flow, len(jobs), rule is not None)
    count = math.ceil(len(jobs) / rows)
    text = ""
    if tell:
        labels = [label for label, _ in jobs[:rows]]
        text = outlook(conditioned(flow, labels, request.prompt, request.numbers, rule), rows, count, request)
    yield Planned(count * steps, text=text)
    drawn = yield from draw_jobs(flow, jobs, way, prompt=request.prompt, numbers=request.numbers, guidance=rule)
    return Drawn(drawn, jobs)


def calls_of(flow: Flow, request: R) -> R:
    """The request with a student's own number of steps, where none was asked for."""
    calls = getattr(flow, "about", {}).get("calls")
    return request if calls is None or "steps" in request.model_fields_set else request.changed(steps=calls)


def _said(flow: Flow, way: Way) -> tuple[Said, int]:
    """The solver and the levels that are really visited: a shift, and one made twice, is to be seen. And the number of its steps: `auto`
    may take half as many, each of two evaluations."""
    words, _, times = settled_way(flow, way)
    levels = [f"{float(flow.path(t).sigma):.3g}" for t in times]
    what = "shares masked" if isinstance(flow, Masked) else "noise levels"
    shown = levels if len(levels) <= 9 else [*levels[:4], "to", *levels[-4:]]
    return Said(f"Solver {words}, {len(times) - 1} steps, {what} {' '.join(shown)}."), len(times) - 1


@torch.no_grad()
def outlook(flow: Flow, rows: int, count: int, request: Drawing) -> str:
    """How long `count` batches of so many rows take, and how much memory, if that is long; else nothing. One evaluation is timed."""
    if isinstance(flow, Masked):
        return ""
    often = count * request.steps * CALLS.get(request.solver.partition(":")[0], 1)
    x = torch.zeros(rows, *flow.shape, device=device_of(flow))
    one = foretold.seconds_of(lambda: flow.velocity(x, flow.times(1)[0]), x.device, often)
    return foretold.sentence(
        one * often, often * rows, lambda: Task.of(flow, "sample", {}, "denoise", {}, rows, request.steps)
    )


def _loaded(request: Drawing) -> Prior:
    settled(request)  # says which options the prior does not take
    models.check_draws(request.prior, tokens=True)
    return models.bundled_prior(request, str(devices.to_device(request.device)))


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
