"""Runs of the page: work that a thread looks after, watched from others and stopped at any moment; never two runs at a time."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ...app import errors
from ...app.errors import BadInput
from ...app.run import Done, Event, Noted, Planned, Said, Stepped, Stopped, Warned, drive, duration
from ..worker import Fault

Carry = Callable[[Any, Callable[[Event | None], None]], Any]
"""Carries a job out; what it calls with events, or with None now and then, raises Stopped."""
POLL = 0.1  # seconds between looks at a thread
EVERY = 1.0
"""Seconds between estimates that are shown."""


class Work:
    """A job that is carried out, looked after by a thread of its own.

    Attributes:
        step: the last one that was made; picture: an estimate, at most a second older; figures: of all steps.
        lines: what there is to say of the result; outlook: of the run before it begins. done: how many of several results are there.
        made: what the work returned; error: or why it did not.
    """

    def __init__(self, job: Any, turn: threading.Lock, every: float = EVERY, carry: Carry = drive):
        self.step: Stepped | None = None
        self.picture: Tensor | None = None
        self.figures: list[Any] = []
        self.lines: list[str] = []
        self.outlook = ""
        self.done = 0
        self.made: Any = None
        self.error: BaseException | None = None
        self.every = every
        self._job, self._carry, self._turn, self._halt = job, carry, turn, threading.Event()
        self._began = self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        return isinstance(self.error, Stopped)

    @property
    def left(self) -> str:
        """How long it will go on, in words."""
        assert self.step is not None
        passed = time.monotonic() - self._began
        return duration(passed / max(self.step.index, 1) * (self.step.total - self.step.index))

    def stop(self) -> None:
        """At once; what there is of the result is kept."""
        self._halt.set()

    def wait(self, seconds: float | None = None) -> None:
        self._thread.join(seconds)

    def follow(self) -> Iterator[Stepped]:
        """The last step, now and then, until the run has ended; who leaves early ends the run."""
        told, last = None, -self.every
        try:
            while self._thread.is_alive():
                self._thread.join(POLL)
                step = self.step
                if step is not told and step is not None and time.monotonic() - last >= self.every:
                    told, last = step, time.monotonic() if step.index else last
                    yield step
        finally:
            self.stop()

    def _run(self) -> None:
        try:
            # a queue in front lets one run in, but a run whose page was closed may still make its last step
            while not self._turn.acquire(timeout=POLL):
                self._check()
            try:
                self.made = self._carry(self._job, self._look)
            finally:
                self._turn.release()
        except BaseException as error:  # told to whoever follows
            self.error = error

    def _look(self, event: Event | None) -> None:
        if event is None:
            self._check()
        elif isinstance(event, Planned):
            self._began, self.outlook = time.monotonic(), event.text
            self.step = Stepped(event.done, event.total)
        elif isinstance(event, Stepped):
            now = time.monotonic()
            if event.picture is not None and (self.picture is None or now - self._looked >= self.every):
                self.picture, self._looked = event.picture(), now
            self.figures.append(event.figures)
            self.step = event
            if event.index < event.total:
                self._check()
        elif isinstance(event, Said | Noted | Warned):
            self.lines.append(event.text)
        elif isinstance(event, Done):
            self.done, self.lines = self.done + 1, []

    def _check(self) -> None:
        if self._halt.is_set():
            raise Stopped(130)


class Desk:
    """The runs of all who have the page open: one at a time, a few waiting."""

    def __init__(self, waiting: int = 2, carry: Carry = drive):
        self.waiting, self._carry = waiting, carry
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
                raise BadInput("a run of this page is not finished yet; cancel it first")
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

    def begin(self, who: str, job: Any, every: float = EVERY) -> Work:
        work = self._works[who] = Work(job, self._turn, every, self._carry)
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
    """What is said of a failure: one sentence; a fault of the program goes to the terminal, whole."""
    found = errors.sentence(error)
    if found is None and isinstance(error, Fault):  # its traceback is on the terminal already
        return f"something went wrong in the program ({error}); the terminal says what"
    if found is None:
        traceback.print_exception(error, file=sys.stderr)
        return f"something went wrong in the program ({type(error).__name__}); the terminal says what"
    return found
