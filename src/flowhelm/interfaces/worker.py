"""Work in a process of its own, which can be ended: one piece of work after another, by what was loaded once.

    worker = Worker(opened, opening, memory=8e9)  # there, `opened(opening)` loads and returns what makes work of a job
    answer = worker.run(job, each)

One step of a method may take hours, and no thread can be ended in the middle of a step. A process can: it is asked to stop, which
raises `Stopped` in it, in the middle of a step too; if it has not ended after some seconds it is killed, and another one is started.
So is one that holds more memory than it may: the parent looks at what it really holds, since torch reserves gigabytes of addresses
that it never uses (of 3.6 GB, 0.8 are held with `photos` on a CPU).

Jobs and answers are plain values, for models of options do not pickle: a request crosses as JSON and is read there by the same model.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, cast

from ..app.errors import BadInput, Broken, sentence
from ..app.run import Done, Event, Run, Stepped, Stopped

POLL = 0.1
"""Seconds between looks at the process."""
GRACE = 1.0
"""Seconds that a process has to stop by itself."""
TRIES = 3
HEAVY = ("deepinv", "flowhelm.app.restore.restorer")
"""What processes that restore import."""
Handle = Callable[[Any], Run[Any]]


class Died(Broken):
    """The process ended, and nobody had asked it to."""


class Fault(RuntimeError):
    """Of the program; the process has printed its traceback."""


class Worker:
    """The process, seen from the one that has jobs for it. Jobs of several threads take turns.

    Args:
        target, args: what the process calls once; it returns the function that makes a piece of work of a job. Both must be importable.
        memory: bytes that the process may hold. every: seconds between estimates that an event brings along; None for none at all.
        grace: seconds to stop in, before it is killed. tries: how often a job is begun whose process dies.
        imports: modules that the process needs and that take long to import.
    """

    def __init__(
        self, target: Callable[..., Handle], *args: Any, memory: float | None = None, every: float | None = None, grace: float = GRACE,
        tries: int = 1, imports: Sequence[str] = (),
    ):  # fmt: skip
        self.memory, self.grace, self.tries = memory, grace, tries
        self._target, self._args, self._every = target, args, every
        # a process that has only imported, and has neither threads nor a GPU, is forked: so another one is there in a moment
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload([target.__module__, *imports])
        self._alone = threading.Lock()
        self._process: Any = None
        self._pipe: Connection
        self._ready, self._number = False, 0

    @property
    def pid(self) -> int | None:
        """Of the process that works now, or will."""
        return None if self._process is None else self._process.pid

    def open(self) -> None:
        """Waits until the process is there; raises what `target` raises."""
        with self._alone:
            self.begin()
            self._wait(lambda event: None)

    def run(self, job: Any, each: Callable[[Event | None], object] = lambda event: None) -> Any:
        """Carries a job out; returns what came of it, or raises what it raised.

        Args:
            each: is called with every event and, now and then, with None. What it raises stops the work and is raised here, unless the work
                ends well before it notices.

        Raises:
            Died: the process has, `tries` times. MemoryError: it held too much, and was killed. Fault: of the program.
        """
        with self._alone:
            for left in reversed(range(self.tries)):
                self.begin()
                try:
                    self._wait(each)
                    return self._carried_out(job, each)
                except Died:
                    if not left:
                        raise

    def close(self) -> None:
        """Ends the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join(5)

    def begin(self) -> None:
        """Starts the process, unless it is there; does not wait for it."""
        if self._process is not None and self._process.is_alive():
            return
        self._pipe, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._every, self._target, self._args), daemon=True)
        process.start()
        theirs.close()  # the end of the process is the end of the pipe
        self._process, self._ready = process, False

    def _wait(self, each: Callable[[Event | None], object]) -> None:
        while not self._ready:
            kind, value = self._next()
            if kind == "error":
                self.close()
                raise value[0](*value[1])
            self._ready = kind == "ready"
            each(None)

    def _carried_out(self, job: Any, each: Callable[[Event | None], object]) -> Any:
        self._number += 1
        over: BaseException | None = None
        ends = float("inf")
        self._send((self._number, job))
        while True:
            kind, value = self._next()
            if kind == "done":
                return value
            if kind == "error":
                raise over or value[0](*value[1])
            if self.memory is not None and held(self._process.pid) > self.memory:
                self._kill()
                raise over or MemoryError(f"it held more than {self.memory / 1e9:.1f} GB")
            try:
                each(_known(value) if kind else None)
            except BaseException as error:
                if over is None:
                    over, ends = error, time.monotonic() + self.grace
                    self._send((self._number, None))
            if over is not None and time.monotonic() > ends:
                self._kill()
                raise over

    def _next(self) -> tuple[str, Any]:
        """What the process says; nothing, if it says nothing for a moment. Raises Died."""
        try:
            return cast("tuple[str, Any]", self._pipe.recv()) if self._pipe.poll(POLL) else ("", None)
        except (EOFError, OSError):
            raise self._died() from None

    def _send(self, what: Any) -> None:
        try:
            self._pipe.send(what)
        except (OSError, ValueError):
            raise self._died() from None

    def _died(self) -> Died:
        process = self._process
        if process is not None:
            process.join(5)
        self._kill()
        status = getattr(process, "exitcode", None)
        return Died(f"the process that made it has ended (status {status}); if memory is short, take a smaller picture")

    def _kill(self) -> None:
        """Ends the process, and begins another at once, so that who comes next need not wait so long."""
        wanted = self._process is not None
        self.close()
        if wanted:
            self.begin()


def allowance(budget: float | None) -> float:
    """Bytes that a process may hold: so many, else half of what is free now."""
    from ..raster import half_of_free  # needs numpy

    return half_of_free() if budget is None else budget


def left(memory: float) -> float:
    """Bytes that this process may still take of so many."""
    return max(memory - held(os.getpid()), 0)


def held(pid: int) -> int:
    """Bytes of memory that a process holds; 0 if it is no more."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _known(event: Event) -> Event:
    """As it was, with a picture that is made when it is wanted."""
    if isinstance(event, Stepped) and event.picture is not None:
        import torch

        array: Any = event.picture
        return replace(event, picture=lambda: torch.from_numpy(array))
    return event


# --- in the process ---


class _Turns:
    """Which job is carried out, and which is to be stopped; both by number."""

    def __init__(self, pipe: Connection):
        self.pipe, self.jobs = pipe, queue.SimpleQueue[tuple[int, Any]]()
        self.running = self.stopped = 0

    def listen(self) -> None:
        """In a thread of its own, so that a stop is heard in the middle of a step, and so is the end of the parent."""
        while True:
            try:
                number, job = self.pipe.recv()
            except (EOFError, OSError):
                os._exit(1)
            if job is not None:
                self.jobs.put((number, job))
            else:
                self.stopped = number
                signal.raise_signal(signal.SIGTERM)

    def stop(self, *_: Any) -> None:
        """The handler of SIGTERM, which Python calls in the main thread. A job is stopped once, and no other in its place."""
        if self.running and self.running == self.stopped:
            self.running = 0
            raise Stopped(128 + signal.SIGTERM)


def _work(pipe: Connection, every: float | None, target: Callable[..., Handle], args: tuple[Any, ...]) -> None:
    """Carries out jobs until the parent has gone."""
    turns = _Turns(pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is heard by the parent alone
    signal.signal(signal.SIGTERM, turns.stop)
    threading.Thread(target=turns.listen, daemon=True).start()
    with suppress(BrokenPipeError):
        try:
            handle = target(*args)
        except Exception as error:
            pipe.send(("error", _plain(error)))
            return
        pipe.send(("ready", None))
        while True:
            number, job = turns.jobs.get()
            with suppress(Stopped):  # of a job that was ending anyhow
                try:
                    turns.running = number
                    turns.stop()  # it may have been stopped before it began
                    answer = "done", _sent(handle(job), pipe, every)
                except (Exception, Stopped) as error:
                    answer = "error", _plain(error)
                finally:
                    turns.running = 0
            pipe.send(answer)


def _sent(events: Run[Any], pipe: Connection, every: float | None) -> Any:
    """Carries out a piece of work and sends what it says. `Stopped` comes from the handler, and so arises in the work itself."""
    last = float("-inf")
    try:
        while True:
            event = next(events)
            if isinstance(event, Stepped):
                shown = None
                if every is not None and event.picture is not None and time.monotonic() - last >= every:
                    last, shown = time.monotonic(), event.picture().numpy()
                event = replace(event, picture=cast("Any", shown), step=None)
            elif isinstance(event, Done):
                event = replace(event, result=None)
            pipe.send(("event", event))
    except StopIteration as end:
        return end.value
    finally:
        events.close()


def _plain(error: BaseException) -> tuple[type[BaseException], tuple[Any, ...]]:
    """The kind of an error and what it says; a fault of the program is printed here, where its traceback is."""
    if isinstance(error, Stopped):
        return Stopped, (error.code,)
    from ..memory import is_short  # needs torch

    text = sentence(error)
    if is_short(error):
        return MemoryError, (text,)
    if isinstance(error, BadInput):
        return type(error), (str(error),)
    if text is not None:
        return BadInput, (text,)
    traceback.print_exception(error, file=sys.stderr)
    return Fault, (type(error).__name__,)
