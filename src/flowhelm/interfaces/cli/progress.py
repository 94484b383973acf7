"""A piece of work on a terminal: results on stdout; how far it is on stderr, as a bar, or elsewhere as a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from ...app import run as work
from ...app.run import Event, Run, Stepped, near, plain

T = TypeVar("T")
MANY = 8
"""Files that are named one by one; of more, their number and folder are."""

Say = Callable[[int, str], None]
"""Steps done, and what there is to say of them."""


@contextmanager
def bar(total: int, done: int = 0, first: str = "") -> Iterator[Say]:
    """`done` steps of `total` were made before; `first` is said until there is something to say."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(total, done, lambda text: console.print(text, soft_wrap=True, markup=False, emoji=False))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.fields[said]}", markup=False)
    columns = BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn()
    # the default forgets steps after 30 s, and one step of a large picture may take longer
    with Progress(*columns, console=console, speed_estimate_period=3600) as shown:
        task = shown.add_task("", total=total, completed=done, said=first)
        yield lambda index, said: shown.update(task, completed=index, said=plain(said))


def _lines(total: int, done: int, say: Callable[[str], None]) -> Say:
    """About ten lines a run, and one at least every minute."""
    start = said = time.monotonic()
    last = done

    def tell(index: int, text: str) -> None:
        nonlocal said, last
        now, before, last = time.monotonic(), last, index
        if index == total or index * 10 // total != before * 10 // total or now - said > 60:
            said = now
            left = (now - start) / max(index - done, 1) * (total - index)
            parts = f"step {index}/{total}", plain(" ".join(text.split())), f"{work.duration(left)} left"
            say(", ".join(filter(None, parts)))

    return tell


def carried_out(events: Run[T]) -> T:
    """Runs a piece of work before the eyes of whoever has typed the command; Ctrl-C stops it. Returns what it made."""
    with terminal() as show, work.signals():
        return work.drive(events, show)


@contextmanager
def terminal() -> Iterator[Callable[[Event], None]]:
    """What shows the events of a piece of work."""
    import typer

    with ExitStack() as open_:
        tell: Say | None = None
        total = 0  # of the bar: a method that improves a whole trajectory steps by its own count

        def show(event: Event) -> None:
            nonlocal tell, total
            if isinstance(event, Stepped):
                if tell is None:
                    total = event.total
                    tell = open_.enter_context(bar(total))
                tell(event.index * total // max(event.total, 1), event.text)
                return
            open_.close()  # the bar ends before anything else is printed; a step after it begins another
            tell = None
            for line in lines(event):
                typer.echo("\n".join(map(plain, line.split("\n"))))  # a table has lines
            if isinstance(event, work.Planned) and event.total > event.done:
                total = event.total
                tell = open_.enter_context(bar(total, event.done))

        yield show


def lines(event: Event) -> Iterator[str]:
    """What is printed of an event."""
    match event:
        case work.Planned(text=text) | work.Said(text=text):
            yield from text.split("\n") if text else ()  # a table has many lines
        case work.Written(paths=paths):
            folders = {path.parent for path in paths}
            many = len(paths) > MANY and len(folders) == 1
            yield (
                f"wrote {len(paths)} files to {near(folders.pop())}" if many else f"wrote {', '.join(map(near, paths))}"
            )
        case work.Noted(text=text):
            yield f"note: {text}"
        case work.Warned(text=text):
            yield f"warning: {text}"
        case work.Failed(name=name, reason=reason):
            yield f"failed: {name}: {reason}"
        case work.Done():  # of a batch, whose bar shows it
            pass
