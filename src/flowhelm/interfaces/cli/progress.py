"""How far a run is: a bar on a terminal, a line now and then elsewhere. On stderr, so that stdout keeps to results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

Tell = Callable[[int, float], None]
"""Steps done, and the misfit in units of the noise."""
Say = Callable[[int, str], None]
"""Steps done, and what there is to say of them."""


@contextmanager
def progress(total: int, done: int = 0) -> Iterator[Tell]:
    with bar(total, done, "misfit   -  of the noise") as say:
        yield lambda index, misfit: say(index, f"misfit {misfit:4.2f} of the noise")


@contextmanager
def bar(total: int, done: int = 0, first: str = "") -> Iterator[Say]:
    """`done` steps of `total` were made before; `first` is said until there is something to say."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(total, done, lambda text: console.print(text, soft_wrap=True, markup=False))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        TimeRemainingColumn(),
    )
    # the default forgets steps after 30 s, and one step of a large picture may take longer
    with Progress(*columns, console=console, speed_estimate_period=3600) as shown:
        task = shown.add_task("", total=total, completed=done, said=first)
        yield lambda index, said: shown.update(task, completed=index, said=said)


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
            say(f"step {index}/{total}, {' '.join(text.split())}, {_long(left)} left")

    return tell


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else str(timedelta(seconds=round(seconds)))
