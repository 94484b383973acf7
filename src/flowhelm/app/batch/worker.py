"""Makes items of a batch with a prior that is loaded once: one at a time, or several of equal size as the rows of one batch.

Alone, an item is what `flowhelm restore` makes of it, to the bit. Among others it has the same noise, but the network's kernels
round otherwise for another number of rows: its settings then hold `rows` and `row`, by which it can be made again to the bit.
"""

import os
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...interfaces.cli.progress import Tell
from ...memory import is_short
from ..errors import is_full
from ..files import atomic as files
from ..files.pictures import write
from ..models import provenance
from ..restore.problem import Problem, alike, joined, opened, prepare, timed, work_of
from ..restore.result import answer, like, measured, picture_of, result_of
from ..restore.run import loop
from . import items
from .items import Item

Show = Callable[[Sequence[Item], int, int], AbstractContextManager[Tell]]
"""Of the items that run together, the steps in all and those done: tells how far they are."""


class Full(Exception):
    """The disk is: no fault of the picture, and the next one would fail alike."""


class Ready(NamedTuple):
    item: Item
    settings: dict[str, Any]
    problem: Problem
    inputs: dict[str, str]
    key: str


class Maker:
    """With a prior of its own, and a folder of its own to write in.

    Args:
        described, base: the batch, and its settings by `description.settled`; weights: fingerprints of the prior.
        stage: a folder that nobody else uses, below one that is there. What is in it is whole when it is moved.
        rows: items that may run together; halved for good when memory does not suffice.
        example: an item by which it is told whether a pipeline fits into the GPU, before it is opened.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        base: Mapping[str, Any],
        weights: Mapping[str, str],
        stage: Path,
        rows: int = 1,
        example: Item | None = None,
    ):
        self.described, self.base, self.weights, self.stage, self.rows = described, base, weights, stage, rows
        self.flow = opened(base, None if example is None else work_of(items.settings_of(example, described, base)))

    def make(self, chunk: Sequence[Item], show: Show) -> Iterator[dict[str, Any]]:
        """The line of each item, as soon as its files are in their places or it has failed.

        Raises:
            Full: the disk is.
        """
        began = now()
        groups: dict[Hashable, list[Ready]] = {}
        for item in chunk:
            settings = items.settings_of(item, self.described, self.base)
            try:
                ready = self._ready(item, settings)
            except Exception as error:  # one picture's fault must not cost the others
                yield self._failed(item, error, began)
            else:
                groups.setdefault(alike(ready.problem, ready.settings), []).append(ready)
        for group in groups.values():
            while group:
                some, began = group[: self.rows], now()
                made, short = self._made(some, show)
                if short:  # once more, with fewer
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

    def _ready(self, item: Item, settings: dict[str, Any]) -> Ready:
        inputs = provenance.inputs(settings, self.weights)
        self._staged()
        problem = prepare(settings, self._target(item), print, self.flow)
        return Ready(item, {**timed(problem, settings)}, problem, inputs, items.key(item, settings, inputs))

    def _made(self, some: Sequence[Ready], show: Show) -> tuple[list["Outcome | Exception"], bool]:
        """What came of each; or, of several, that memory does not suffice for so many."""
        try:
            return list(_restored(some, show)), False
        except Exception as error:
            if len(some) > 1 and is_short(error):
                return [], True
            if len(some) == 1:
                return [error], False
        # it may be the fault of one of them only
        return [self._made([each], show)[0][0] for each in some], False

    def _written(self, ready: Ready, outcome: "Outcome", began: str) -> dict[str, Any]:
        item, problem = ready.item, ready.problem
        settings = ready.settings | outcome.among
        picture = picture_of(problem, outcome.whole, settings.get("keep"))
        result = result_of(problem, settings, outcome.whole, picture)
        result |= {"seconds": outcome.seconds, "evaluations": outcome.evaluations}
        self.clear()  # of what the one before has left, if it has failed
        self._staged()
        target, shown = self._target(item), measured(problem, settings)
        if settings["simulate"] and shown is not None:
            write(files.outputs(target)["degraded"], shown, problem.picture)
        write(target, picture, like(problem, settings))
        line = {
            "settings": settings,
            "inputs": ready.inputs,
            "environment": provenance.environment(settings),
            "result": result,
        }
        placed = _move(self.stage, (Path(self.described["out"]) / item.output).parent)
        told = {"key": ready.key, "began": began, "status": "done", "files": placed, "ended": now()}
        return item._asdict() | line | told

    def _failed(self, item: Item, error: Exception, began: str) -> dict[str, Any]:
        if is_full(error):
            raise Full(str(error)) from error
        return failed(item, self.described, self.base, self.weights, began, reason(error))

    def _target(self, item: Item) -> Path:
        return self.stage / Path(item.output).name

    def _staged(self) -> None:
        self.stage.mkdir(exist_ok=True)  # not its parents: they are cleared when the batch that they are of is no more


class Outcome(NamedTuple):
    whole: torch.Tensor
    seconds: float
    evaluations: int
    among: dict[str, int]


def _restored(some: Sequence[Ready], show: Show) -> Iterator[Outcome]:
    """Each of them; of several, the time and the evaluations are a row's share."""
    problem, count = joined([each.problem for each in some]), len(some)
    place = loop(
        problem,
        some[0].settings,
        None,
        {},
        False,
        {},
        show=lambda total, done: show([s.item for s in some], total, done),
    )
    pictures = answer(problem, [each.settings for each in some], place.x, place.carried)
    for row in range(count):
        among = {"rows": count, "row": row} if count > 1 else {}
        yield Outcome(pictures[row : row + 1], place.seconds / count, place.evaluations // count, among)


def failed(
    item: Item, described: Mapping[str, Any], base: Mapping[str, Any], weights: Mapping[str, str], began: str, why: str
) -> dict[str, Any]:
    """The line of an item that could not be made."""
    settings = items.settings_of(item, described, base)
    # what it reads may be gone meanwhile, or be readable again: what counts is what it is now
    key = items.key(item, settings, items.inputs(settings, weights))
    return {**item._asdict(), "key": key, "began": began, "status": "failed", "reason": why, "ended": now()}


def reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _move(stage: Path, folder: Path) -> dict[str, str]:
    """Everything in the stage into its place; names and hashes of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for path in sorted(stage.iterdir()):
        hashes[path.name] = files.sha256(path)
        os.replace(path, folder / path.name)
    return hashes
