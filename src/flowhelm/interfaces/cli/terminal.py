"""Events on a terminal: a bar with the time that is left, or a line now and then elsewhere; both on stderr, results on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import typer

from ...app.run import Event, Noted, Planned, Run, Said, Stepped, Warned, Written, drive, signals

T = TypeVar("T")
Tell = Callable[[int, str], None]
"""Steps done, and what there is to say of them."""


def carried_out(work: Run[T]) -> T:
    """Runs a piece of work and shows it; Ctrl-C stops it, and it keeps what can be gone on from."""
    with signals(), terminal() as show:
        return drive(work, show)


@contextmanager
def terminal() -> Iterator[Callable[[Event], None]]:
    """Shows events."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn()
    # the default forgets steps after 30 s, and one step of a large picture may take longer
    bar = Progress(*columns, console=console, speed_estimate_period=3600) if console.is_terminal else None
    tell: Tell | None = None
    total = 0

    def show(event: Event) -> None:
        nonlocal tell, total
        if isinstance(event, Planned):
            total = event.total
            if bar is None:
                tell = _lines(event, lambda text: console.print(text, soft_wrap=True, markup=False))
            else:
                tell = _bar(bar, event)
        elif isinstance(event, Stepped):
            if tell is not None:  # a method may step by its own count
                tell(event.index * total // max(event.total, 1), event.text)
        elif isinstance(event, Written):
            typer.echo("wrote " + ", ".join(near(path) for path in event.paths))
        elif isinstance(event, Said | Noted | Warned):
            head = {Noted: "note: ", Warned: "warning: "}.get(type(event), "")
            typer.echo(head + event.text)

    if bar is None:
        yield show
        return
    with bar:
        yield show


def _bar(bar: Any, event: Planned) -> Tell:
    for task in bar.task_ids:
        bar.remove_task(task)
    task = bar.add_task("", total=event.total, completed=event.done, text=event.text)
    return lambda index, text: bar.update(task, completed=index, text=text)


def _lines(event: Planned, say: Callable[[str], None]) -> Tell:
    """About ten lines a run, and one at least every minute."""
    start = said = time.monotonic()
    last, total = event.done, event.total

    def tell(index: int, text: str) -> None:
        nonlocal said, last
        now, before, last = time.monotonic(), last, index
        if index == total or index * 10 // total != before * 10 // total or now - said > 60:
            said = now
            left = (now - start) / max(index - event.done, 1) * (total - index)
            say(f"step {index}/{total}, {' '.join(text.split())}, {lasting(left)} left")

    return tell


def lasting(seconds: float) -> str:
    """`95 s`, `1:05:20`."""
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))


def near(path: Any) -> str:
    """A path relative to where one stands, where that is shorter."""
    from ...app.restore.result import short

    return short(path)
