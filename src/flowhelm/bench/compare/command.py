"""`flowhelm bench`: from words to entries, then the benchmark itself, whose rows are appended as they are finished."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import operators
from ...app.errors import BadInput
from ...app.files import atomic as files
from ...app.files.dataset import Pictures, pictures
from ...app.models import opening
from ...app.models.device import to_device
from ...app.options import own
from ...app.options.signature import bind, pick, plain
from ...app.options.words import Worded, worded
from ...app.restore.presets import Preset, read, settings, shipped
from ...app.run import Failed, Noted, Planned, Run, Said, Stepped, Written
from ...cards import METHODS, prior_kind
from ...flow import Flow
from ...priors.bundled import Prior
from . import protocols, rows, runner
from .decide import decided
from .gallery import Gallery
from .perceptual import classified, perceptual
from .protocols import Task
from .request import BenchRequest, DataRequest, TableRequest
from .runner import Cell, Distances, Entry
from .table import Row, table

STEPS = 50
"""Of a method that no preset knows."""
KEPT = 3
"""Pictures of each task that a report shows."""


@dataclass(frozen=True)
class Plan:
    """What `bench` does: the methods and their labels, and the cells of work."""

    chosen: Sequence[Worded]
    labels: Sequence[str]
    work: Sequence[Cell]
    gallery: Gallery


def bench(request: BenchRequest, command: str = "") -> Run[list[dict[str, Any]]]:
    """Compares methods; rows are appended as they are finished, and the same request goes on where it was stopped.

    Args:
        command: what was typed, for the report.

    Returns:
        All rows of `request.out`.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    if request.report is not None:
        _check_report(request.report)
    known = None if request.defaults else [*(p for path in request.presets for p in read(path)), *shipped()]
    stored = rows.read(request.out)
    done = {rows.key(row) for row in stored if not (request.retry and row["error"])}
    plan = planned(request, [row["method"] for row in stored])
    measure = distances(request, plan.work)
    chosen, gallery = plan.chosen, plan.gallery
    settled: dict[tuple[Any, ...], Entry] = {}
    total = len(plan.work) * (len(chosen) + 1)
    yield Planned(total)
    for number, cell in enumerate(plan.work):
        at = number * (len(chosen) + 1)
        where = f"{cell.about['prior']} {cell.task.name} {cell.pictures.names[0]}"
        if request.baselines:
            for made in runner.rows_of_baselines(cell, done, measure):
                gallery.put(made)
                rows.append(request.out, made.rows)
        yield Stepped(at + 1, total, f"{where}: baselines")
        for i, (each, label) in enumerate(zip(chosen, plan.labels, strict=True), 2):
            purpose = (*(v for k, v in cell.about.items() if k != "seed"), label)
            if purpose not in settled:
                settled[purpose] = _settled(each, label, cell, known, request, stored)
            if not runner.is_done(cell, settled[purpose], done):
                made = runner.rows_of(cell, settled[purpose], measure)
                gallery.put(made)
                rows.append(request.out, made.rows)
            yield Stepped(at + i, total, f"{where}: {label}")
    finished = rows.read(request.out)
    yield Said(_shown(finished, request))
    for line in sorted(_beyond(finished)):
        yield Noted(line)
    for name, reason in sorted({(f"{r['task']}, {r['method']}", r["error"]) for r in finished if r["error"]}):
        yield Failed(name, reason)
    yield from _reported(request, finished, gallery, command)
    return finished


def planned(request: BenchRequest, before: Iterable[str] = ()) -> Plan:
    """What a request asks for, checked before the long work. `before`: labels of rows that are there."""
    device = str(to_device(request.device))
    words = request.method or [method.__name__ for method in METHODS if prior_kind(method) == "flow"]
    chosen = [worded("method", text, METHODS, ("label", "steps")) for text in words]
    labels = [each.beside.get("label", text) for each, text in zip(chosen, words, strict=True)]
    if len(set(labels)) < len(labels):
        raise BadInput("two methods have one label; give one of them another: NAME:label=...")
    work: list[Cell] = []
    gallery = Gallery(request.out.with_suffix(".pictures"))
    for name in request.prior:
        flow = prior_for(name, request.size, device)
        wanted = tasks_of(request.protocol, request.task, flow.shape)
        taken = pictures_for(request, flow, device)
        gallery.names |= set(taken.names[:KEPT])
        about = {
            "prior": opening.name_of(flow, name),
            "weights": files.sha256(opening.weights(name))[:8],
            "data": taken.origin,
            "size": flow.shape[-1],
        }
        for named, tasks in wanted:
            work += runner.cells(flow, tasks, taken, range(request.seeds), request.batch, about | {"protocol": named})
    if request.reference is not None:
        one = (
            {cell.task.name: cell for cell in work}.values() if request.baselines else ()
        )  # the same for each cell of a task
        simple = [label for cell in one for label in runner.labels_of_baselines(cell)]
        those = dict.fromkeys([*labels, *simple, *before])
        if request.reference not in those:
            raise BadInput(f"--reference: expected one of {', '.join(those)}, got {request.reference!r}")
    return Plan(chosen, labels, work, gallery)


def pictures_for(request: DataRequest, flow: Flow, device: str) -> Pictures:
    """The pictures of a request, of the prior's channels and size."""
    taken = pictures(
        request.data, channels=flow.shape[0], size=flow.shape[-1], folder=request.folder, images=request.images,
        skip=request.skip, spread=request.spread,
    )  # fmt: skip
    return taken._replace(clean=taken.clean.to(device))


def distances(request: BenchRequest, work: Sequence[Cell]) -> Distances:
    """The columns that networks measure, by what was asked for."""
    found = {}
    if request.lpips is not None:
        found["lpips"] = perceptual(request.lpips, request.device)
    if request.features is not None:
        channels = {cell.flow.shape[0] for cell in work}
        if len(channels) > 1:
            raise BadInput("--features: the priors have grey and colour pictures; give them one after the other")
        found["features"] = classified(request.features, channels.pop(), request.device)
    return found


def _beyond(finished: Iterable[Mapping[str, Any]]) -> set[str]:
    """Methods that cannot come near their budget of evaluations: their single steps are too large."""
    said = set()
    for row in finished:
        name, _, number = row["budget"].partition("=")
        if name == "evaluations" and not row["error"] and abs(row["cost"] - float(number)) > 0.25 * float(number):
            said.add(f"{row['task']}, {row['method']}: {row['steps']} steps cost {row['cost']:.0f} for {number}")
    return said


def _check_report(path: Path) -> None:
    """Before the long work: a report can be written there."""
    files.check_writable(path.parent)
    if path.is_dir():
        raise BadInput(f"--report {str(path)!r} is a folder; name a file in it")


def _reported(request: TableRequest, finished: Sequence[Row], gallery: Gallery, command: str) -> Run[None]:
    """The HTML report, if it is wanted, with the pictures that were kept."""
    if request.report is None:
        return
    from .report import report

    text = report(finished, request.reference, gallery, command, request.by)
    files.put(request.report, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    yield Written([request.report])


def show(path: Path, request: TableRequest, command: str = "") -> Run[None]:
    """The table of the rows that `bench` has written."""
    if not path.exists():
        raise BadInput(f"{str(path)!r} does not exist; make it with flowhelm bench --out {path}")
    if request.report is not None:
        _check_report(request.report)
    finished = rows.read(path)
    if not finished:
        raise BadInput(f"{str(path)!r} holds no rows; make them with flowhelm bench")
    yield Said(_shown(finished, request))
    yield from _reported(request, finished, Gallery(path.with_suffix(".pictures")), command)


def _shown(finished: Sequence[Row], request: TableRequest) -> str:
    return decided(finished) if request.decide else table(finished, request.reference, request.by)


def prior_for(name: str, size: int | None, device: str) -> Prior:
    """The prior, for pictures of `size` pixels (its own size if None)."""
    flow = opening.plain(name, str(to_device(device)))
    side = flow.shape[-1]
    if size is None or size == side:
        return flow
    if not hasattr(flow, "sized"):
        raise BadInput(f"--size {size}: the prior {own.short(name)} has no sized(height, width); leave --size out")
    if getattr(flow, "about", {}).get("classes"):
        raise BadInput(f"--size {size}: the prior '{flow.name}' draws pictures of {side} pixels only; leave --size out")
    return flow.sized(size, size)


def tasks_of(protocol: str, words: Sequence[str], shape: Sequence[int]) -> list[tuple[str, list[Task]]]:
    """(protocol, tasks): those of a protocol that are named, all if none is; an `OPERATOR:...,std=S` is a task of its own."""
    if protocol == "posterior":
        raise BadInput("posterior: the exact protocol needs no pictures; run python -m flowhelm.bench.exact.posterior")
    builder = pick("protocol", protocol, protocols.ALL)
    tasks = {task.name: task for task in builder(tuple(shape))}
    chosen = [tasks[word] for word in words if word in tasks] if words else list(tasks.values())
    own = [own_task(word) for word in words if word not in tasks]
    return [(name, some) for name, some in ((protocol, chosen), ("own", own)) if some]


def own_task(text: str, std: float | None = None) -> Task:
    """`deblur:sigma=2,std=0.05,label=soft` -> the task; `std` where the text gives none."""
    found = worded("operator", text, operators.ALL, ("std", "label"))
    value = found.beside.get("std", std)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0.0
    if not number > 0:
        raise BadInput(f"{text!r}: expected the noise's std above 0, got {value}; add ,std=0.05")
    builder = found.function
    return Task(found.beside.get("label", own.short(own.name_of(builder))), builder, bind(builder, found.given), number)


def entry(
    chosen: Worded, label: str, task: Task, prior: str, known: Sequence[Preset] | None, steps: int | None
) -> Entry:
    """A method for one task: options as given, else of the nearest preset (`known` None: never), else its defaults."""
    method = chosen.function
    shown = plain(task.builder, {k: str(v) for k, v in task.options.items()})
    usual = None
    if known is not None:
        usual = settings(own.name_of(method), own.name_of(task.builder), shown, task.std, prior, known)
    base = dict(usual.options) if usual else {}
    options = plain(method, base | dict(chosen.given))
    bound = bind(method, options)
    beside = chosen.beside.get("steps")
    if beside is not None and not (beside.isdecimal() and int(beside) > 0):
        raise BadInput(f"{label}: expected a whole number of steps, got {beside!r}")
    number = int(beside) if beside else steps or (usual.steps if usual else None) or STEPS
    origin = ("given over " if chosen.given else "") + (usual.origin if usual else "default")
    if own.word(own.name_of(method)):  # rows of another version of it are not the same
        options["code"] = own.sha256(own.name_of(method))[:8]
    return Entry(label, partial(method, **bound), options, number, int(bound.get("particles", 1)), origin)


def _settled(
    chosen: Worded,
    label: str,
    cell: Cell,
    known: Sequence[Preset] | None,
    request: BenchRequest,
    stored: Iterable[Mapping[str, Any]],
) -> Entry:
    """The entry for a cell's task, its steps chosen for the budget if there is one."""
    made = entry(chosen, label, cell.task, cell.about["prior"], known, request.steps)
    if not request.budget or "steps" in chosen.beside:
        return made
    made = made._replace(budget=request.budget)
    # as many steps as in the rows that are there: a measured time is never the same twice
    same = {
        **cell.about,
        "method": label,
        "budget": request.budget,
        "options": json.dumps(dict(made.options), sort_keys=True),
    }
    for row in stored:
        if all(row[name] == value for name, value in same.items() if name != "seed"):
            return made._replace(steps=row["steps"])
    try:
        steps = runner.steps_of_budget(cell, made, evaluations=request.evaluations, seconds=request.seconds)
    except ValueError:  # the run itself will say why
        return made
    return made._replace(steps=steps)
