"""`flowhelm bench`: from words to entries, then the benchmark itself, whose rows are appended as they are finished."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ... import operators
from ...app.errors import BadInput
from ...app.files import atomic as files
from ...app.files.dataset import pictures
from ...app.files.pictures import check_writable
from ...app.options.signature import bind, pick, plain
from ...app.options.words import Worded, worded
from ...app.restore.presets import Preset, read, settings, shipped
from ...app.restore.run import METHODS
from ...interfaces.cli.progress import bar
from ...priors import bundled
from ...priors.bundled import Prior
from . import protocols, rows, runner
from .gallery import Gallery
from .perceptual import perceptual
from .protocols import Task
from .runner import Cell, Entry
from .table import table

STEPS = 50
"""Of a method that no preset knows."""
KEPT = 3
"""Pictures of each task that a report shows."""
Say = Callable[[str], None]


class Budget(NamedTuple):
    """What every method may spend per picture; `steps` for all where neither is given, None: its preset's."""

    steps: int | None = None
    evaluations: float | None = None
    seconds: float | None = None

    @property
    def words(self) -> str:
        if self.evaluations is not None:
            return f"evaluations={self.evaluations:g}"
        return f"seconds={self.seconds:g}" if self.seconds is not None else ""


def bench(
    *,
    prior: Sequence[str],
    protocol: str,
    task: Sequence[str],
    method: Sequence[str],
    data: Path,
    folder: str,
    images: int,
    size: int | None,
    skip: int,
    spread: bool,
    seeds: int,
    budget: Budget,
    presets: Sequence[Path],
    defaults: bool,
    baselines: bool,
    batch: int,
    reference: str | None,
    report: Path | None,
    lpips: Path | None,
    retry: bool,
    out: Path,
    threads: int | None,
    device: str,
    command: str,
    say: Say,
) -> None:
    """See the command's help."""
    if sum(each is not None for each in budget) > 1:
        raise BadInput("--steps, --evaluations and --seconds exclude one another; give one of them")
    if threads is not None:
        torch.set_num_threads(threads)
    if out.suffix not in (".csv", ".parquet"):
        raise BadInput(f"--out {str(out)!r}: rows are .csv or .parquet; name it {out.with_suffix('.csv').name!r}")
    if report is not None:
        _check_report(report)
    device = str(files.to_device(device))
    chosen = [worded("method", text, METHODS, ("label", "steps")) for text in method or [m.__name__ for m in METHODS]]
    labels = [c.beside.get("label", t) for c, t in zip(chosen, method or [m.__name__ for m in METHODS], strict=True)]
    if len(set(labels)) < len(labels):
        raise BadInput("two methods have one label; give one of them another: NAME:label=...")
    known = None if defaults else [*(p for path in presets for p in read(path)), *shipped()]
    stored = rows.read(out)
    done = {rows.key(row) for row in stored if not (retry and row["error"])}
    measure = perceptual(lpips, device) if lpips is not None else None
    work: list[Cell] = []
    gallery = Gallery(out.with_suffix(".pictures"))
    for name in prior:
        flow = prior_for(name, size, device)
        shape = flow.shape
        wanted = tasks_of(protocol, task, shape)
        taken = pictures(
            data, channels=shape[0], size=shape[-1], folder=folder, images=images, skip=skip, spread=spread
        )
        taken = taken._replace(clean=taken.clean.to(device))
        gallery.names |= set(taken.names[:KEPT])
        about = {
            "prior": flow.name,
            "weights": files.sha256(bundled.weights(name))[:8],
            "data": taken.origin,
            "size": shape[-1],
        }
        for named, tasks in wanted:
            columns = about | {"protocol": named}
            work += runner.cells(flow, tasks, taken, range(seeds), batch, columns)
    if reference is not None:
        one = {cell.task.name: cell for cell in work}.values() if baselines else ()  # the same for each cell of a task
        simple = [label for cell in one for label in runner.labels_of_baselines(cell)]
        those = dict.fromkeys([*labels, *simple, *(row["method"] for row in stored)])
        if reference not in those:
            raise BadInput(f"--reference: expected one of {', '.join(those)}, got {reference!r}")
    settled: dict[tuple[Any, ...], Entry] = {}
    with bar(len(work) * (len(chosen) + 1)) as tell:
        for number, cell in enumerate(work):
            at = number * (len(chosen) + 1)
            where = f"{cell.about['prior']} {cell.task.name} {cell.pictures.names[0]}"
            if baselines:
                for made in runner.rows_of_baselines(cell, done, measure):
                    gallery.put(made)
                    rows.append(out, made.rows)
            tell(at + 1, f"{where}: baselines")
            for i, (each, label) in enumerate(zip(chosen, labels, strict=True), 2):
                purpose = (*(v for k, v in cell.about.items() if k != "seed"), label)
                if purpose not in settled:
                    settled[purpose] = _settled(each, label, cell, known, budget, stored)
                if not runner.is_done(cell, settled[purpose], done):
                    made = runner.rows_of(cell, settled[purpose], measure)
                    gallery.put(made)
                    rows.append(out, made.rows)
                tell(at + i, f"{where}: {label}")
    finished = rows.read(out)
    say(table(finished, reference))
    for line in sorted(_beyond(finished)):
        say(f"note: {line}")
    failed = {f"{r['task']}, {r['method']}: {r['error']}" for r in finished if r["error"]}
    for line in sorted(failed):
        say(f"failed: {line}")
    if report is not None:
        write_report(report, finished, gallery, reference, command, say)


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
    check_writable(path.parent)
    if path.is_dir():
        raise BadInput(f"--report {str(path)!r} is a folder; name a file in it")


def write_report(
    path: Path,
    finished: Sequence[Mapping[str, Any]],
    gallery: Gallery,
    reference: str | None,
    command: str,
    say: Say,
) -> None:
    """The HTML report of rows, with the pictures that were kept."""
    from .report import report

    text = report(finished, reference, gallery, command)
    files.put(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    say(f"wrote {path}")


def show(path: Path, *, reference: str | None, report: Path | None, command: str, say: Say) -> None:
    """See the help of `flowhelm table`."""
    if not path.exists():
        raise BadInput(f"{str(path)!r} does not exist; make it with flowhelm bench --out {path}")
    if report is not None:
        _check_report(report)
    finished = rows.read(path)
    if not finished:
        raise BadInput(f"{str(path)!r} holds no rows; make them with flowhelm bench")
    say(table(finished, reference))
    if report is not None:
        write_report(report, finished, Gallery(path.with_suffix(".pictures")), reference, command, say)


def prior_for(name: str, size: int | None, device: str) -> Prior:
    """The prior, for pictures of `size` pixels (its own size if None)."""
    flow = bundled.load(name, str(files.to_device(device)))
    own = flow.shape[-1]
    if size is None or size == own:
        return flow
    if flow.about.get("classes"):
        raise BadInput(f"--size {size}: the prior '{flow.name}' draws pictures of {own} pixels only; leave --size out")
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
    return Task(found.beside.get("label", builder.__name__), builder, bind(builder, found.given), number)


def entry(
    chosen: Worded, label: str, task: Task, prior: str, known: Sequence[Preset] | None, steps: int | None
) -> Entry:
    """A method for one task: options as given, else of the nearest preset (`known` None: never), else its defaults."""
    method = chosen.function
    shown = plain(task.builder, {k: str(v) for k, v in task.options.items()})
    usual = None
    if known is not None:
        usual = settings(method.__name__, task.builder.__name__, shown, task.std, prior, known)
    base = dict(usual.options) if usual else {}
    options = plain(method, base | dict(chosen.given))
    bound = bind(method, options)
    beside = chosen.beside.get("steps")
    if beside is not None and not (beside.isdecimal() and int(beside) > 0):
        raise BadInput(f"{label}: expected a whole number of steps, got {beside!r}")
    number = int(beside) if beside else steps or (usual.steps if usual else None) or STEPS
    origin = ("given over " if chosen.given else "") + (usual.origin if usual else "default")
    return Entry(label, partial(method, **bound), options, number, int(bound.get("particles", 1)), origin)


def _settled(
    chosen: Worded,
    label: str,
    cell: Cell,
    known: Sequence[Preset] | None,
    budget: Budget,
    stored: Iterable[Mapping[str, Any]],
) -> Entry:
    """The entry for a cell's task, its steps chosen for the budget if there is one."""
    made = entry(chosen, label, cell.task, cell.about["prior"], known, budget.steps)
    if not budget.words or "steps" in chosen.beside:
        return made
    made = made._replace(budget=budget.words)
    # as many steps as in the rows that are there: a measured time is never the same twice
    same = {
        **cell.about,
        "method": label,
        "budget": budget.words,
        "options": json.dumps(dict(made.options), sort_keys=True),
    }
    for row in stored:
        if all(row[name] == value for name, value in same.items() if name != "seed"):
            return made._replace(steps=row["steps"])
    try:
        steps = runner.steps_of_budget(cell, made, evaluations=budget.evaluations, seconds=budget.seconds)
    except ValueError:  # the run itself will say why
        return made
    return made._replace(steps=steps)
