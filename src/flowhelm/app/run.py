"""A piece of work is a generator of events: it says what it is doing, and whoever listens shows it.

    events = restore(settings)
    for event in events: ...          # a progress bar, a page, a line of a batch
    made = drive(events, show)        # the same, and what the work returns

A progress bar, the page, HTTP, a batch and a worker of Ray are loops over the same generator. Cancelling is closing it: between two
steps the work keeps what can be gone on from. A signal arrives as `Stopped`, in the middle of a step too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from torch import Tensor

    from ..step import Step

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Planned:
    """The work begins, or a part of it.

    Attributes:
        total: steps; done: of them, before (of a run that goes on).
        text: what is done, in a sentence; or nothing.
    """

    total: int
    done: int = 0
    text: str = ""


@dataclass(frozen=True, eq=False)
class Stepped:
    """A step was made.

    Attributes:
        index, total: `index` of `total` steps of the work are done.
        text: what there is to say of it (`misfit 0.98 of the noise`).
        picture: makes the estimate so far, `(1, c, h, w)` in [-1, 1] on the CPU; None where there is none. It costs time: call it only
            when it is shown.
        figures: numbers of this step, by name: `misfit`, `reward`, `evaluations`, ...
        name: of the picture, where the work has several.
        step: of the method, whole.
    """

    index: int
    total: int
    text: str = ""
    picture: Callable[[], Tensor] | None = None
    figures: Any = None
    name: str = ""
    step: Step | None = None


@dataclass(frozen=True)
class Written:
    """Files are there, whole."""

    paths: Sequence[Path]


@dataclass(frozen=True)
class Said:
    """What came of the work, in words."""

    text: str


@dataclass(frozen=True)
class Noted:
    """Something that a person may want to know."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something that is probably not as the person wishes."""

    text: str


@dataclass(frozen=True)
class Failed:
    """One item of several could not be made; the others go on."""

    name: str
    reason: str


@dataclass(frozen=True)
class Done:
    """An item of several is made, or the work itself; `result` is what it returns."""

    name: str
    result: Any


Event = Planned | Stepped | Written | Said | Noted | Warned | Failed | Done
Run = Generator[Event, None, T]
"""A piece of work: yields events, returns what it made."""


class Stopped(SystemExit):
    """By a signal, or by whoever listens; the status is what a shell expects: 130 for Ctrl-C."""


def drive(events: Run[T], each: Callable[[Event], object] = lambda event: None) -> T:
    """Runs a piece of work to its end; returns what it made.

    `Stopped` that is raised while an event is shown goes into the work, which keeps what there is, says so, and ends.
    """
    try:
        event = next(events)
        while True:
            try:
                each(event)
            except Stopped as stop:
                event = events.throw(stop)
            else:
                event = next(events)
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        events.close()


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped here (once: while the last estimate is saved, they are not heard).

    For the interface that owns the process; in another thread than the main one, where there are no signals, nothing is changed.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(128 + number)

    with handlers_kept(stop):
        yield


@contextmanager
def unbroken() -> Iterator[None]:
    """A signal waits for the end of what stands in here, a step of a training; a second one does not wait: KeyboardInterrupt."""
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with handlers_kept(remember):
        yield
    if asked:
        signal.raise_signal(asked[0])  # to the handler of whoever owns the process


@contextmanager
def handlers_kept(meanwhile: Callable[[int, FrameType | None], None] | None = None) -> Iterator[None]:
    """The handlers of SIGINT and SIGTERM are put back at the end, whoever has taken them (Ray does); `meanwhile` is in their place."""
    alone = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {each: signal.getsignal(each) for each in SIGNALS if alone}
    try:
        for each in before:
            if meanwhile is not None:
                signal.signal(each, meanwhile)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plain(text: str) -> str:
    """A line as a terminal may show it: what is in a name is text. Control characters, and what turns a line round, are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """How long, for a person: `95 s`, `0:03:20`."""
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def near(path: Path) -> str:
    """A path as a sentence names it: from here, if it is below."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
