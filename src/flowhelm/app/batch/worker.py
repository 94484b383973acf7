"""Makes items of a batch with a prior that is loaded once: one at a time, or several of equal size as the rows of one batch.

Alone, an item is what `flowhelm restore` makes of it, to the bit. Among others it has the same noise, but the network's kernels
round otherwise for another number of rows: its settings then hold `rows` and `row`, by which it can be made again to the bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ... import raster
from ...memory import is_short
from ..errors import Unwritable, is_full
from ..files.atomic import check_writable, settle, sha256
from ..files.names import check_lengths
from ..files.pictures import write
from ..models import provenance
from ..restore import record
from ..restore.problem import Problem, alike, joined, opened, prepare, work_of
from ..restore.result import answer, like, measured, picture_of, result_of
from ..restore.run import loop
from ..restore.settle import asked_of_picture
from ..run import Event, Noted, Run, Stepped, drive
from . import items
from .description import settled
from .items import Batch, Item
from .manifest import DoneLine, FailedLine, now


class NoOutput(Exception):
    """The results cannot be written, since the disk is full or their folder is gone: no fault of the picture, and the next one would
    fail alike."""


class Ready(NamedTuple):
    """An item that is about to be made."""

    item: Item
    problem: Problem
    inputs: dict[str, str]
    key: str


class Outcome(NamedTuple):
    """What came of an item: the picture with its margin, and its share of the time and of the evaluations of those beside it."""

    whole: torch.Tensor
    seconds: float
    evaluations: int
    rows: int
    row: int


class Worker:
    """With a prior of its own, and a folder of its own to write in.

    Args:
        stage: a folder that nobody else uses, below one that is there. What is in it is whole when it is moved.
        rows: items that may run together; halved for good when memory does not suffice.
    """

    def __init__(self, batch: Batch, stage: Path, rows: int = 1):
        self.batch, self.stage, self.rows = batch, stage, rows

    def open(self, example: Item) -> Run[None]:
        """Loads the prior; by the example it is told whether a pipeline fits into the GPU, before it is opened."""
        self.flow = yield from opened(self.batch.base, work_of(self.batch.settings(example)))

    def make(self, chunk: Sequence[Item]) -> Iterator[Event | DoneLine | FailedLine]:
        """How far each run is, and the line of each item as soon as its files are in their places or it has failed.

        Raises:
            NoOutput: the results cannot be written.
        """
        began = now()
        groups: dict[Hashable, list[Ready]] = {}
        for item in chunk:
            try:
                ready = self._ready(item)
            except Exception as error:  # one picture's fault must not cost the others
                yield self._failed(item, error, began)
            else:
                if ready.problem.picture.note:
                    yield Noted(f"{item.name} {ready.problem.picture.note}")
                groups.setdefault(alike(ready.problem), []).append(ready)
        for group in groups.values():
            while group:
                some, began = group[: self.rows], now()
                made = yield from self._made(some)
                if made is None:  # once more, with fewer
                    self.rows = max(1, len(some) // 2)
                    torch.cuda.empty_cache()
                    continue
                group = group[len(some) :]
                for ready, outcome in zip(some, made, strict=True):
                    try:
                        if isinstance(outcome, Exception):
                            raise outcome
                        yield self._written(ready, outcome, began)
                    except Exception as error:
                        yield self._failed(ready.item, error, began)

    def clear(self) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)

    def _ready(self, item: Item) -> Ready:
        settings = self.batch.settings(item)
        check_lengths([self.batch.out / item.output])
        with raster.within(settings.budget):
            inputs = record.inputs(settings, self.batch.weights)
        key = items.key(item, settings, inputs)  # before the noise is estimated: by it alone an item is known
        self._staged()
        request = self.batch.request
        if asked_of_picture(request):
            settings = items.settings_of(item, request, settled(request, "batch", item.photo, self.flow))
        problem = drive(prepare(settings, self._target(item), self.flow))
        return Ready(item, problem, inputs, key)

    def _made(self, some: Sequence[Ready]) -> Run[Sequence[Outcome | Exception] | None]:
        """What came of each; None if, of several, memory does not suffice for so many."""
        try:
            return (yield from _restored(some))
        except Exception as error:
            if len(some) > 1 and is_short(error):
                return None
            if len(some) == 1:
                return [error]
        found: list[Outcome | Exception] = []
        for each in some:  # it may be the fault of one of them only
            found += (yield from self._made([each])) or ()
        return found

    def _written(self, ready: Ready, outcome: Outcome, began: str) -> DoneLine:
        item, problem = ready.item, ready.problem
        settings = problem.settings
        if outcome.rows > 1:
            settings = settings.changed(rows=outcome.rows, row=outcome.row)
        picture = picture_of(problem, outcome.whole)
        result = result_of(problem, outcome.whole, picture, outcome.seconds, outcome.evaluations)
        self.clear()  # of what the one before has left, if it has failed
        self._staged()
        target, shown = self._target(item), measured(problem)
        if settings.simulate and shown is not None:
            write(record.outputs(target)["degraded"], shown, problem.picture)
        write(target, picture, like(problem))
        placed = _move(self.stage, (self.batch.out / item.output).parent)
        return DoneLine.model_construct(
            **item._asdict(), key=ready.key, began=began, ended=now(), status="done", files=placed, settings=settings,
            inputs=ready.inputs, environment=provenance.environment(settings), result=result,
        )  # fmt: skip

    def _failed(self, item: Item, error: Exception, began: str) -> FailedLine:
        if (trouble := no_output(error, self.stage.parent)) is not None:
            raise NoOutput(trouble) from error
        return failed(item, self.batch, began, reason(error))

    def _target(self, item: Item) -> Path:
        return self.stage / Path(item.output).name

    def _staged(self) -> None:
        self.stage.mkdir(exist_ok=True)  # not its parents: they are cleared when the batch that they are of is no more


def _restored(some: Sequence[Ready]) -> Run[list[Outcome]]:
    """Each of them; of several, the time and the evaluations are a row's share."""
    problem, count = joined([each.problem for each in some]), len(some)
    more = f"{some[0].item.name}{f' and {count - 1} more' * (count > 1)}, "
    events = loop(problem)
    place = None
    while place is None:
        try:
            event = next(events)
        except StopIteration as end:
            place = end.value
        else:
            if isinstance(event, Stepped):
                yield Stepped(
                    event.index, event.total, more + event.text, event.picture, event.figures, some[0].item.name
                )
    pictures = answer(problem, [each.problem.settings for each in some], place)
    return [
        Outcome(pictures[row : row + 1], place.seconds / count, place.evaluations // count, count, row)
        for row in range(count)
    ]


def failed(item: Item, batch: Batch, began: str, why: str) -> FailedLine:
    """The line of an item that could not be made."""
    key = batch.key(
        item, failed=True
    )  # what it reads may be gone meanwhile, or be readable again: what it is now counts
    return FailedLine.model_construct(**item._asdict(), key=key, began=began, ended=now(), status="failed", reason=why)


def no_output(error: BaseException, folder: Path) -> str | None:
    """Why nothing can be written to a folder of the batch, if that is what an error comes from; what else it may be is an item's own."""
    if is_full(error):
        return f"the disk is full ({reason(error)})"
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, Unwritable | OSError):
        chain = chain.__cause__ or chain.__context__
    if chain is None:
        return None
    try:
        check_writable(folder)
    except Unwritable as trouble:
        return str(trouble)
    return None


def reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _move(stage: Path, folder: Path) -> dict[str, str]:
    """Everything in the stage into its place; names and hashes of the files."""
    hashes = {path.name: sha256(path) for path in sorted(stage.iterdir())}
    folder.mkdir(parents=True, exist_ok=True)
    for name in hashes:
        os.replace(stage / name, folder / name)
    settle(folder)  # before the line that says that they are there
    return hashes
