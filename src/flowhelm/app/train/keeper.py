"""What a training writes of itself while it runs: log, curve, weights, sheet; for every command that runs `train.fit`.

OUT/log.csv      step, mean loss since the last row, what is held apart, rate, norm, seconds
OUT/curve.png    the log as a picture
OUT/samples.png  pictures drawn from the average now and then
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...step import Update
from ..errors import BadInput
from ..files import atomic as files
from ..run import Planned, Run, Said, Stepped, Stopped, unbroken
from ..show.curves import curve

SHEETS = 10  # of samples, over a run
COLUMNS = ("step", "loss", "held_apart", "rate", "norm", "seconds")
"""Of log.csv."""


def carried(updates: Generator[Update, None, None], keeper: Keeper) -> Run[None]:
    """The updates of `fit` one after another, each kept; `Stopped` leaves all saved.

    Raises:
        Stopped: all is saved. Diverged: the last good state is in the checkpoint and in the weights.
    """
    steps, out = keeper.steps, keeper.out
    with closing(updates):  # which writes the checkpoint
        with unbroken():  # a step and its row are whole
            update = next(updates, None)
            keeper.begin(steps if update is None else update.index - 1, update)
        done = keeper.done
        try:
            if update is None:
                yield Said(f"{out} holds a finished run")
            else:
                yield Planned(steps, done, f"going on after step {done}" if done else f"into {out}")
            while update is not None:
                yield Stepped(keeper.index, steps, keeper.text, figures=keeper.row or None)
                with unbroken():
                    update = next(updates, None)
                    keeper.step(update)
            keeper.samples()
        except Stopped:
            if keeper.index < steps:
                updates.close()
                yield Said(
                    f"stopped after step {keeper.index} of {steps}, all saved in {out}; go on with the same command"
                )
            raise
        finally:  # at a divergence, too: the average is as before it
            keeper.close()


class Log:
    """log.csv, which grows by rows; on resuming, rows after the checkpoint are dropped, since they come again.

    Args:
        columns: the first counts what is done, the last is `seconds`. done: at the checkpoint.
    """

    def __init__(self, path: Path, columns: Sequence[str], done: int):
        self.path, self.columns = path, columns
        self.rows = [row for row in read_log(path, columns) if float(row[columns[0]]) <= done]
        self.seconds = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        put_table(path, self.rows, columns)

    def add(self, row: Mapping[str, object]) -> None:
        self.rows.append({name: str(row[name]) for name in self.columns})
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(self.rows[-1])

    def points(self, name: str) -> list[tuple[float, float]]:
        """A column over the first one."""
        return [(float(row[self.columns[0]]), float(row[name])) for row in self.rows if row[name]]


def read_log(path: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of a log.csv; none if there is none, and without a last one that was cut off in the writing."""
    found: list[dict[str, str]] = []
    if not path.exists():
        return found
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                numbers = {name: float(row[name] or "nan") for name in columns}
            except (KeyError, ValueError):
                break
            if math.isnan(numbers[columns[0]]) or not row["seconds"]:
                break
            found.append(row)
    return found


def put_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A CSV file, whole or not at all."""

    def save(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    files.put(path, save)


class Board:
    """The log of a run for TensorBoard, if it is wanted: `writer_of` makes its writer, see `tensorboard`; after so many steps `done`."""

    def __init__(self, writer_of: Callable[..., Any] | None, out: Path, done: int):
        self.writer = None if writer_of is None else writer_of(str(out / "tensorboard"), purge_step=done + 1)

    def add(self, row: Mapping[str, float | None], index: int, group: str = "") -> None:
        for name, value in row.items():
            if self.writer is not None and value is not None:
                self.writer.add_scalar(f"{group}{name}", value, index)

    def picture(self, picture: Image.Image, index: int) -> None:
        if self.writer is not None:
            self.writer.add_image("samples", np.asarray(picture), index, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


@dataclass
class Keeper:
    """Writes what a run shows of itself.

    Attributes:
        out: folder; steps: of the run; minutes: between two writings of the weights.
        rows_of: of the batch that comes after so many steps. apart: a figure that is held apart from the training, or None.
        write: the weights after so many steps. sheet: pictures of the average. writer_of: TensorBoard's, or None.
    """

    out: Path
    steps: int
    minutes: float
    rows_of: Callable[[int], int]
    apart: Callable[[], float] | None
    write: Callable[[int], None]
    sheet: Callable[[], Image.Image]
    writer_of: Any = None

    def __post_init__(self) -> None:
        self.every, self.row = min(100, max(1, self.steps // 100)), dict[str, float | None]()
        self.losses, self.text = list[Tensor](), ""
        self.began = self.saved = self.drawn = self.measured = time.monotonic()

    def begin(self, done: int, update: Update | None) -> None:
        """After `done` steps; `update`: the one that comes after them, if there is one."""
        self.done = self.index = done
        self.log = Log(self.out / "log.csv", COLUMNS, done)
        self.rows = self.rows_of(done)
        self.board = Board(self.writer_of if update is not None else None, self.out, done)
        self.step(update)

    def step(self, update: Update | None) -> None:
        """A step is made: its row, and now and then the weights and samples."""
        if update is None:
            return
        self.losses.append(update.loss)
        self.index, now = update.index, time.monotonic()
        index, every, last = self.index, self.every, self.index == self.steps
        if index % every == 0 or last or not self.text:
            loss = float(torch.stack(self.losses).mean())
            self.text = f"loss {loss:.4f}, {len(self.losses) * self.rows / (now - self.measured):.3g} pictures/s"
        if index % every == 0 or last:
            due = self.apart is not None and (index % (10 * every) == 0 or last)
            apart = self.apart() if due and self.apart is not None else None
            seconds = self.log.seconds + now - self.began
            self.row = {"step": index, "loss": loss, "held_apart": apart, "seconds": seconds}
            self.row |= {name: float(update.info[name]) for name in ("rate", "norm")}
            shown = {name: "" if value is None else f"{value:.6g}" for name, value in self.row.items()}
            self.log.add(shown | {"step": index})
            self.board.add({name: self.row[name] for name in COLUMNS[1:-1]}, index)
            self.losses.clear()
            self.measured = time.monotonic()
        if index * SHEETS // self.steps != (index - 1) * SHEETS // self.steps and now - self.drawn > 60 and not last:
            self.samples()
            self.drawn = time.monotonic()
        if now - self.saved > 60 * self.minutes and not last:
            self.weights()
            self.saved = time.monotonic()

    def close(self) -> None:
        self.weights()
        self.board.close()

    def weights(self) -> None:
        self.write(self.index)
        points = {name.replace("_", " "): self.log.points(name) for name in ("loss", "held_apart")}
        files.put_picture(self.out / "curve.png", curve(points))

    def samples(self) -> None:
        picture = self.sheet()
        files.put_picture(self.out / "samples.png", picture)
        self.board.picture(picture, self.index)


def tensorboard() -> Callable[..., Any]:
    """What makes the writer of a log for TensorBoard. Raises BadInput where its package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadInput("--tensorboard needs the package tensorboard: pip install 'flowhelm[train]'") from error
    return SummaryWriter  # type: ignore[no-any-return, unused-ignore]
