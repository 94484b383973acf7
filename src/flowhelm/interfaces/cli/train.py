"""The command that trains."""

from pathlib import Path
from typing import Annotated

import typer

from .shell import app, bad, own


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Train a prior by a recipe, or go on training.\n\n"
    "flowhelm train fashion --data fashion_mnist.npz --steps 4000 --out runs/fashion\n\n"
    "Ctrl-C saves everything, and the same command goes on, to the same weights. The folder holds the weights (for "
    "`flowhelm sample`, --prior and --start), the log, its curve and samples.\n\n"
    "Recipes and what they read: photos (--data: zip of photographs; --patch), fashion (--data: fashion_mnist.npz), aerial "
    "(--data: zip of CLASS/*.jpg; --split: JSON that names the test pictures), animals (--data: zip of train/CLASS/*.JPEG and "
    "val/CLASS/*.JPEG). All take --batch and --seed.",
)
def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE --data FILE [--OPTION VALUE]...", help="The recipe, and its own options."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/RECIPE.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser; default: the recipe's.")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate; default: the recipe's.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Between checkpoints.")] = 3.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16; for GPUs that have it.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile the network.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard, too.")] = False,
    start: Annotated[
        str | None, typer.Option(help="Begin from these weights: a bundled prior by name, or a .safetensors file.")
    ] = None,
) -> None:
    from ... import recipes
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words
    from ...app.train.run import train as run

    names = ", ".join(f.__name__ for f in recipes.ALL)
    if not words or words[0].startswith("-"):
        bad(f"name a recipe first, one of {names}: flowhelm train fashion --data fashion_mnist.npz")
    name, *others = words or []
    mine = own(train)
    rest, given = sort_words(others, flags({"recipe": pick("recipe", name, recipes.ALL)}, mine), mine)
    if rest:
        bad(f"expected one recipe and its options, got also {' '.join(rest)}")
    run(
        name,
        given["recipe"],
        out=out,
        steps=steps,
        rate=rate,
        minutes=minutes,
        bf16=bf16,
        compiled=compiled,
        device=device,
        threads=threads,
        tensorboard=tensorboard,
        start=start,
        say=typer.echo,
    )
