"""Runs methods on tasks: prior x task x method x seed x picture -> rows, a few pictures at a time.

Every method sees the same measurement and the same source, and a picture's random streams depend on the seed and its name
alone: so a row does not depend on what else is run, nor on how many pictures are run at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...affordable import nearest
from ...app.files.dataset import Pictures
from ...app.options import own
from ...flow import Flow, NetFlow
from ...measure import Measurement
from ...metrics import psnr, ssim
from ...rng import Noise
from ...start import begin
from ...step import Step
from .baselines import baselines
from .cost import Free, Metered, Tally, watched
from .protocols import Problem, Task, measured
from .rows import key

Method = Callable[..., Iterator[Step]]
Distances = Mapping[str, Callable[[Tensor, Tensor], Tensor]]
"""Further columns: (picture, reference), each `(b, c, h, w)` in [-1, 1] -> distance `(b,)`."""
NONE: Distances = {}


class Entry(NamedTuple):
    """A method with its settings for one task.

    label      what tables call it
    method     with its options bound: method(flow, y, x, times, noise=noise)
    options    the options as JSON can hold them, every one of them
    steps      of the grid
    particles  rows per picture
    settings   where the options come from; budget: what `steps` were chosen for, or ""
    """

    label: str
    method: Method
    options: Mapping[str, Any]
    steps: int
    particles: int = 1
    settings: str = "given"
    budget: str = ""

    @property
    def name(self) -> str:
        return own.short(own.name_of(getattr(self.method, "func", self.method)))  # of a partial


class Outcome(NamedTuple):
    """Restored pictures `(b, c, h, w)`, what went wrong with each ("" if nothing), and the cost of them all."""

    image: Tensor
    errors: list[str]
    tally: Tally


class Made(NamedTuple):
    """Rows of one entry on one cell, with the pictures behind them."""

    rows: list[dict[str, Any]]
    outcome: Outcome
    problem: Problem


class Cell(NamedTuple):
    """A few pictures of one task under one seed, with a flow for them; `about` are columns that all of its rows have."""

    flow: Flow
    task: Task
    pictures: Pictures
    seed: int
    about: Mapping[str, Any]


def restored(flow: Flow, y: Measurement, entry: Entry, names: Sequence[str], seed: int) -> Outcome:
    """Runs one method on a batch. Whatever goes wrong is told, not raised: a failing method must not end a benchmark.

    Several particles per picture are averaged, with their weights exp(log_w) where the method gives such.
    """
    tally, device = Tally(), y.y.device
    noise = Noise(seed, list(names))
    noise = noise.spawn(entry.particles) if entry.particles > 1 else noise
    flow = Metered(flow, tally)
    count, k = len(names), entry.particles
    errors = [""] * count
    image: Tensor | None = None
    try:
        with watched(tally, device):
            x, times = begin(entry.method, flow, y, entry.steps, noise)
            last: Step | None = None
            for last in entry.method(flow, y, x, times, noise=noise):
                finite = last.x.isfinite().flatten(1).all(1).view(count, -1).any(1).tolist()
                errors = [
                    e or ("" if fine else f"not finite after step {last.index} of {last.total}")
                    for e, fine in zip(errors, finite, strict=True)
                ]
                if all(errors):
                    break
            if last is None:
                raise ValueError("the method made no step")
            with torch.no_grad():
                image = _averaged(flow.decode(last.x), last.info.get("log_w"), count, k)
    except Exception as error:  # of any method and any library below it
        words = " ".join(str(error).split()) or "no message"
        errors = [e or f"{type(error).__name__}: {words}" for e in errors]
    if image is None:
        return Outcome(torch.full((count, 1, 1, 1), torch.nan, device=device), errors, tally)
    finite = image.isfinite().flatten(1).all(1).tolist()
    errors = [e or ("" if fine else "the result is not finite") for e, fine in zip(errors, finite, strict=True)]
    return Outcome(image, errors, tally)


def _averaged(image: Tensor, log_w: Tensor | None, count: int, particles: int) -> Tensor:
    if particles == 1 and len(image) == count:
        return image
    image = image.unflatten(0, (count, -1))
    if log_w is None:
        return image.mean(1)
    return torch.einsum("bk,bkchw->bchw", log_w.to(image).softmax(1), image)


def cells(
    flow: NetFlow,
    tasks: Sequence[Task],
    pictures: Pictures,
    seeds: Sequence[int],
    batch: int,
    about: Mapping[str, Any],
) -> Iterator[Cell]:
    """All the work, a batch of pictures at a time. Labels are told to a prior that has classes."""
    told = getattr(flow, "told", None)
    bound = pictures.labels is not None and told is not None and bool(getattr(flow, "about", {}).get("classes"))
    for task in tasks:
        for seed in seeds:
            for start in range(0, len(pictures.names), batch):
                some = pictures.rows(start, start + batch)
                of = told(some.labels.tolist()) if bound else flow  # type: ignore[misc, union-attr]
                columns = {"task": task.name, "operator": task.operator, "std": task.std, "seed": seed}
                yield Cell(of, task, some, seed, {**about, **columns})


def rows_of_baselines(
    cell: Cell, done: Collection[tuple[Any, ...]] = (), distances: Distances = NONE
) -> Iterator[Made]:
    """Of each restoration without a prior that is not `done`."""
    problem = _problem(cell)
    for label, restore in baselines(cell.task, problem).items():
        entry = Entry(label, _baseline, {}, 0)
        if is_done(cell, entry, done):
            continue
        tally, count = Tally(), len(cell.pictures.names)
        errors, image = [""] * count, torch.full((count, 1, 1, 1), torch.nan)
        try:
            with watched(tally, problem.clean.device), torch.no_grad():
                image = restore()
        except Exception as error:
            errors = [f"{type(error).__name__}: {' '.join(str(error).split())}"] * count
        outcome = Outcome(image, errors, tally)
        yield Made(_rows(cell, entry, "baseline", problem, outcome, distances), outcome, problem)


def labels_of_baselines(cell: Cell) -> list[str]:
    return list(baselines(cell.task, _problem(cell)))


def rows_of(cell: Cell, entry: Entry, distances: Distances = NONE) -> Made:
    """One row per picture of the cell."""
    problem = _problem(cell)
    outcome = restored(cell.flow, problem.y, entry, cell.pictures.names, cell.seed)
    return Made(_rows(cell, entry, entry.name, problem, outcome, distances), outcome, problem)


def _problem(cell: Cell) -> Problem:
    return measured(cell.task, cell.pictures.clean, cell.pictures.names, cell.seed)


def _baseline() -> Iterator[Step]:
    raise NotImplementedError


def _columns(cell: Cell, entry: Entry) -> dict[str, Any]:
    return {
        **cell.about,
        "method": entry.label,
        "options": json.dumps(dict(entry.options), sort_keys=True),
        "settings": entry.settings,
        "steps": entry.steps,
        "budget": entry.budget,
    }


def is_done(cell: Cell, entry: Entry, done: Collection[tuple[Any, ...]]) -> bool:
    """Whether all rows of the entry are among `done`, the keys of rows."""
    columns = _columns(cell, entry)
    return all(key({**columns, "image": name}) in done for name in cell.pictures.names)


def _rows(
    cell: Cell, entry: Entry, name: str, problem: Problem, outcome: Outcome, distances: Distances
) -> list[dict[str, Any]]:
    count, tally = len(cell.pictures.names), outcome.tally
    spent = {
        "cost": tally.evaluations(count),
        "evaluations": tally.rows / count,
        "calls": tally.calls,
        "backward": tally.backward_rows / count,
        "decoder": tally.decoder,
        "seconds": tally.seconds / count,
        "peak_mib": tally.mebibytes,
    }
    good = [i for i, error in enumerate(outcome.errors) if not error]
    scores: dict[str, list[float]] = {}
    if good:
        image, whole = outcome.image[good], _some(problem, good)
        shown, clean = whole.shown(image), whole.shown(whole.clean)
        # a baseline restores what was measured, without the margin that an open blur has
        if image.shape == whole.clean.shape:
            scores["residual"] = whole.residual(image).tolist()
        if image.shape == clean.shape:
            shown = image
        scores["psnr"] = psnr(shown, clean).tolist()
        if min(clean.shape[-2:]) >= 11:
            scores["ssim"] = ssim(shown, clean).tolist()
        for column, distance in distances.items():
            scores[column] = distance(shown, clean).tolist()
    at = {row: {what: values[i] for what, values in scores.items()} for i, row in enumerate(good)}
    return [
        {
            **_columns(cell, entry),
            "name": name,
            "image": picture,
            **at.get(i, {}),
            **spent,
            "error": outcome.errors[i],
        }
        for i, picture in enumerate(cell.pictures.names)
    ]


def _some(problem: Problem, index: list[int]) -> Problem:
    y = problem.y
    return problem._replace(clean=problem.clean[index], y=Measurement(y.y[index], y.operator, y.std))


def steps_of_budget(cell: Cell, entry: Entry, *, evaluations: float | None, seconds: float | None) -> int:
    """Steps that cost nearest to so many evaluations (`Tally.evaluations`), or seconds, per picture.

    Evaluations are counted on a flow whose network costs nothing, one picture; seconds are measured on 2 and 4 steps of the
    batch and follow a line.
    """
    some, flow = cell.pictures, cell.flow
    if evaluations is not None:
        flow = Free(flow.rows(torch.tensor([0]), len(some.names)))
        some = some.rows(0, 1)
    problem = measured(cell.task, some.clean, some.names, cell.seed)

    def spent(steps: int) -> float:
        outcome = restored(flow, problem.y, entry._replace(steps=steps), some.names, cell.seed)
        if any(outcome.errors):
            raise ValueError(outcome.errors[0])
        tally = outcome.tally
        return tally.evaluations(len(some.names)) if evaluations is not None else tally.seconds / len(some.names)

    if evaluations is not None:
        return nearest(spent, evaluations)
    assert seconds is not None
    spent(2)  # warm
    two, four = spent(2), spent(4)
    slope = max((four - two) / 2, four / 1000)
    return max(1, round(4 + (seconds - four) / slope))
