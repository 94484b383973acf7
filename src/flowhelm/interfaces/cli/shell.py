"""What the commands share: the program, options that several have, and how it speaks of what is wrong."""

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="flowhelm",
    help="Restore photographs with pre-trained flow-matching models.\n\n"
    "Example:  flowhelm restore photo.jpg --operator deblur --sigma 1.6 --std 0.05",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Prompt = Annotated[str | None, typer.Option(help="What the picture shows; for pipelines.")]

Negative = Annotated[str | None, typer.Option(help="What it does not show; for pipelines that are guided.")]

Scale = Annotated[float | None, typer.Option(help="Of guidance, for pipelines; default: the pipeline's own.")]

Dtype = Annotated[
    str | None, typer.Option(help="Of a pipeline's weights: float32, bfloat16 or float16; default: bfloat16 on a GPU.")
]

Quantize = Annotated[
    str | None,
    typer.Option(help="A pipeline's network in fewer bits: nf4, int8, torchao-int8, quanto-int8 or a .gguf file."),
]

Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute a pipeline's activations in the backward pass: less memory.")
]

Tiling = Annotated[
    bool, typer.Option("--tiling", help="Decode in tiles (pipelines): less memory, but not quite the same decoder.")
]

Retry = Annotated[
    bool, typer.Option("--retry", help="Of a batch: try again what has failed, though nothing has changed.")
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the description of the batch, and what is left of it; write nothing.")
]

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Of a batch: spread it over workers of Ray: local (started for it alone), auto (one that runs, else local) or an address.",
    ),
]

Workers = Annotated[
    int | None, typer.Option(min=1, help="Of Ray; default: one for each GPU, or for each --cores-per-worker.")
]

Cores = Annotated[int, typer.Option("--cores-per-worker", min=1, help="Of Ray; as many threads each of them uses.")]

NoPlan = Annotated[
    bool, typer.Option("--no-plan", help="Do not refuse what will not fit into the GPU (see `flowhelm plan`); try it.")
]


def command_line() -> str:
    """What was typed, to be kept: without the folders of this machine."""

    def short(word: str) -> str:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        return name + equals + (Path(value).name if Path(value).is_absolute() else value)

    return shlex.join(["flowhelm", *map(short, sys.argv[1:])])


def own(command: Callable[..., None], *more: str) -> list[str]:
    """Options of a command itself, beside those of the methods and operators that it takes; `more`: typed otherwise than called."""
    return [
        *(name for name in inspect.signature(command).parameters if name not in ("context", "words")),
        *more,
        "help",
    ]


def own_flags(context: typer.Context) -> list[str]:
    """Options of the command itself, as they are typed, without dashes: the first meaning of a name that several have."""
    words = [word for parameter in context.command.params for word in parameter.opts if word.startswith("-")]
    return [*(word.lstrip("-").replace("-", "_") for word in words), "help"]


def typed(context: typer.Context, name: str) -> bool:
    """Whether it was given, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def bad(message: str) -> None:
    raise ValueError(message)


def fail(message: str, status: int) -> int:
    if message:  # none where Typer has printed its help instead
        print(f"flowhelm: {' '.join(message.split())}", file=sys.stderr)
    return status
