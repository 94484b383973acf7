"""One run in a thread: watched from others, stopped between two steps, and never two of them at a time."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

from torch import Tensor

from ...app.errors import BadInput, Broken
from ...app.run import Stopped
from ...memory import is_short
from ...step import Diverged

POLL = 0.1  # seconds between looks at a thread


class Seen(NamedTuple):
    """A run after a step: `said` is the misfit of a restoration, the line of the trace of a steered picture."""

    step: int
    total: int
    picture: Tensor
    said: Any
    seconds: float

    @property
    def left(self) -> str:
        """In words."""
        seconds = self.seconds / max(self.step, 1) * (self.total - self.step)
        return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


class Work:
    """`do(watch)` in a thread of its own."""

    def __init__(self, do: Callable[[Callable[..., None]], Any], turn: threading.Lock) -> None:
        self.seen: Seen | None = None
        self.made: Any = None
        self.error: BaseException | None = None
        self._do, self._turn, self._halt = do, turn, threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        return isinstance(self.error, Stopped)

    def stop(self) -> None:
        """After the step that is being made."""
        self._halt.set()

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def follow(self, every: float = 1.0) -> Iterator[Seen]:
        """What was seen last, about every so many seconds, until the run has ended; who leaves early ends the run."""
        told: Seen | None = None
        last = -every
        try:
            while self._thread.is_alive():
                self._thread.join(POLL)
                if self.seen is not told and self.seen is not None and time.monotonic() - last >= every:
                    told, last = self.seen, time.monotonic()
                    yield told
        finally:
            self.stop()

    def _run(self) -> None:
        try:
            # a queue in front lets one run in, but a run whose page was closed may still make its last step
            while not self._turn.acquire(timeout=POLL):
                self._check()
            try:
                self._began = time.monotonic()
                self.made = self._do(self._watch)
            finally:
                self._turn.release()
        except BaseException as error:  # told to whoever follows
            self.error = error

    def _watch(self, step: int, total: int, picture: Tensor, said: Any) -> None:
        self.seen = Seen(step, total, picture, said, time.monotonic() - self._began)
        if step < total:
            self._check()

    def _check(self) -> None:
        if self._halt.is_set():
            raise Stopped(130)


class Desk:
    """The runs of all who have the page open: one at a time, a few waiting."""

    def __init__(self, waiting: int = 2) -> None:
        self.waiting = waiting
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._works: dict[str, Work] = {}
        self._asked: dict[str, bool] = {}  # who waits, and whether still for something

    def ask(self, who: str) -> int:
        """A place in the queue: how many are before it.

        Raises:
            BadInput: it is full, or `who` has a run.
        """
        with self._lock:
            running = sum(work.alive for work in self._works.values())
            if who in self._works and self._works[who].alive:
                raise BadInput("a run of this page is running already; cancel it first")
            others = len(self._asked.keys() - {who})  # who asks again keeps the place
            if others >= self.waiting + (not running):
                raise BadInput(
                    f"the device is busy, and {others} more are waiting for it; try again when one of them is done"
                )
            self._asked[who] = True
            return others + running

    def turn(self, who: str) -> bool:
        """That of `who` has come: whether it is still wanted."""
        with self._lock:
            return self._asked.pop(who, True)

    def begin(self, who: str, do: Callable[[Callable[..., None]], Any]) -> Work:
        work = self._works[who] = Work(do, self._turn)
        return work

    def cancel(self, who: str) -> bool:
        """Whether there was anything to stop."""
        with self._lock:
            if who in self._asked:
                self._asked[who] = False
                return True
        work = self._works.get(who)
        if work is None or not work.alive:
            return False
        work.stop()
        return True

    def leave(self, who: str) -> None:
        """The page was closed."""
        self.cancel(who)
        with self._lock:
            self._asked.pop(who, None)
            self._works = {name: work for name, work in self._works.items() if work.alive}

    def stop(self, seconds: float = 20.0) -> None:
        """All of them, each given so long to keep its last estimate."""
        works, self._works = list(self._works.values()), {}
        for work in works:
            work.stop()
        for work in works:
            work.wait(seconds)


def sentence(error: BaseException) -> str:
    """What is said of a failure: one sentence; what none was written for goes to the terminal, whole."""
    if isinstance(error, ValueError | Diverged | Broken):
        return " ".join(str(error).split())
    if is_short(error):
        return "there is not enough memory for this; take a smaller picture, or see `flowhelm plan`"
    traceback.print_exception(error, file=sys.stderr)
    return f"something went wrong in the program ({type(error).__name__}); the terminal says what"
