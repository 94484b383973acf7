"""How far a run is: a bar on a terminal, a line now and then elsewhere. On stderr, so that stdout keeps to results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[int, float], None]
"""Steps done, and the misfit in units of the noise."""


@contextmanager
def progress(total: int, done: int = 0) -> Iterator[Tell]:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(total, done, lambda text: console.print(text, soft_wrap=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("misfit {task.fields[misfit]} of the noise"),
        TimeRemainingColumn(),
    )
    # the default forgets steps after 30 s, and one step of a large picture may take longer
    with Progress(*columns, console=console, speed_estimate_period=3600) as bar:
        task = bar.add_task("", total=total, completed=done, misfit="  - ")
        yield lambda index, misfit: bar.update(task, completed=index, misfit=f"{misfit:4.2f}")


def _lines(total: int, done: int, say: Callable[[str], None]) -> Tell:
    """About ten lines a run, and one at least every minute."""
    start = said = time.monotonic()

    def tell(index: int, misfit: float) -> None:
        nonlocal said
        now = time.monotonic()
        if index == total or index * 10 // total != (index - 1) * 10 // total or now - said > 60:
            said = now
            left = (now - start) / (index - done) * (total - index)
            say(f"step {index}/{total}, misfit {misfit:.2f} of the noise, {left:.0f} s left")

    return tell
