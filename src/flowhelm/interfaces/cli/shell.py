"""What the commands share: the program, options that several have, and how it speaks of what is wrong."""

import shlex
import sys
from pathlib import Path

import typer

from ...app.run import plain

app = typer.Typer(
    name="flowhelm",
    help="Restore damaged pictures, and steer what a model draws, with flow-matching and diffusion models that are already trained.\n\n"
    "Begin with:  flowhelm restore photo.jpg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command_line() -> str:
    """What was typed, to be kept: without the folders of this machine."""

    def short(word: str) -> str:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        return name + equals + (Path(value).name if Path(value).is_absolute() else value)

    return shlex.join(["flowhelm", *map(short, sys.argv[1:])])


def typed(context: typer.Context, name: str) -> bool:
    """Whether it was given, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def bad(message: str) -> None:
    raise ValueError(message)


def fail(message: str, status: int) -> int:
    if message:  # none where Typer has printed its help instead
        print(f"flowhelm: {plain(' '.join(message.split()))}", file=sys.stderr)
    return status
