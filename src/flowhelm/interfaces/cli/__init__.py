"""The command line. torch and all that needs it are imported inside the commands: `--help` must not wait for them."""

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache
from importlib import import_module
from typing import Annotated, Any, cast

import typer

from ... import __version__
from ...app.errors import sentence
from ...app.options import own
from .shell import app, fail

HOMES: Mapping[str, tuple[str, ...]] = {
    "restore": ("restore", "look", "batch", "rerun"),
    "catalogue": ("methods", "cite", "operators"),
    "look": ("mask", "doctor", "check", "plan", "priors"),
    "train": ("train", "align", "distil"),
    "draw": ("sample", "generate", "steer", "edit"),
    "bench": ("grids", "bench", "table", "protocol", "presets", "calibrate"),
    "serving": ("ui", "serve"),
}
"""Module -> its commands, in the order of `flowhelm --help`. Only the module of the command that is typed is imported."""


def loaded(command: str = "") -> typer.Typer:
    """The program with a command, or with all of them if there is none of that name."""
    homes = [home for home, names in HOMES.items() if command in names] or list(HOMES)
    for home in homes:
        import_module(f".{home}", __name__)
    order = [f"{__name__}.{home}" for home in HOMES]
    app.registered_commands.sort(key=lambda each: order.index(each.callback.__module__) if each.callback else -1)
    return app


@cache
def _parser(command: str) -> Callable[..., Any]:
    """Of a command or, where it is "", of all: made once, for whoever calls `main` again and again."""
    return typer.main.get_command(loaded(command))


@app.callback(invoke_without_command=True)
def top(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(f"flowhelm {__version__}")
        raise typer.Exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 2 for bad input, 130 for Ctrl-C, 1 for what else went wrong.

    Code that stands in the words themselves, FILE.py:NAME, may run: a person has typed it. Nothing else that names code may.
    """
    return copy_context().run(_main, sys.argv[1:] if arguments is None else list(arguments))


def _keep_memory() -> None:
    """Memory that was freed is kept for the next activation: else glibc maps each large one anew, and a call of the network on a large
    picture costs a million page faults, a quarter of its seconds. It is given back to other programs when the process ends."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # a C library without it
            library = ctypes.CDLL(None)
            library.mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped alone
            library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _wait_briefly() -> None:
    """Threads that wait for one another sleep soon: by default they spin for milliseconds, which on a machine where another program
    computes makes a command many times slower, and gains nothing on a quiet one. Read when torch is loaded, so not by whoever
    has loaded it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def _main(arguments: list[str]) -> int:
    own.forget()
    own.trust(*arguments)
    usage_error = cast(
        "type[typer.BadParameter]", typer.BadParameter.__mro__[1]
    )  # where Typer keeps it depends on its version
    _keep_memory()
    _wait_briefly()
    try:
        command = next((each for each in arguments[:1] if any(each in names for names in HOMES.values())), "")
        status = _parser(command)(args=arguments, prog_name="flowhelm", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except usage_error as error:
        return fail(error.format_message(), 2)
    except ValueError as error:
        return fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as error:  # stopped by a signal, all saved
        return int(error.code or 0)
    except (RuntimeError, MemoryError) as error:
        if (said := sentence(error)) is None:  # a fault of the program keeps its traceback
            raise
        return fail(said, 1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # asked of the system wherever a word may be a path
            raise
        return fail(f"{str(error.filename)[:60]!r}... is too long for the name of a file", 2)
