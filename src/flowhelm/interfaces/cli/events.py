"""What a piece of work says, on a terminal: a bar for its steps on stderr, its words on stdout."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TypeVar

import typer

from ...app.run import Event, Failed, Noted, Planned, Run, Stepped, Warned, Written, drive, signals
from .progress import bar

T = TypeVar("T")


def show(events: Run[T]) -> T:
    """Runs it to its end and shows what it says; returns what it made. Ctrl-C stops it."""
    with signals(), ExitStack() as shown:
        tell = None

        def each(event: Event) -> None:
            nonlocal tell
            match event:
                case Planned():
                    shown.close()
                    tell = shown.enter_context(bar(event.total, event.done, event.text))
                case Stepped() if tell is not None:
                    tell(event.index, event.text)
                case Noted():
                    shown.close()
                    typer.echo(event.text)
                case Warned():
                    shown.close()
                    typer.echo(f"warning: {event.text}")
                case Failed():
                    shown.close()
                    typer.echo(f"failed: {event.name}: {event.reason}" if event.name else f"failed: {event.reason}")
                case Written():
                    shown.close()
                    typer.echo(f"wrote {', '.join(map(str, event.paths))}")
                case _:
                    pass

        return drive(events, each)
