"""The command that trains."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.train.request import TrainRequest
from .progress import carried_out
from .shell import app, bad
from .words import asks, own


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Train a prior by a recipe, or go on training.\n\n"
    "flowhelm train fashion --data fashion_mnist.npz --steps 4000 --out runs/fashion\n\n"
    "Ctrl-C saves everything, and the same command goes on, to the same weights. The folder holds the weights (for "
    "`flowhelm sample`, --prior and --start), the log, its curve and samples.\n\n"
    "Recipes and what they read: photos (--data: zip of photographs; --patch), fashion (--data: fashion_mnist.npz), aerial "
    "(--data: zip of CLASS/*.jpg; --split: JSON that names the test pictures), animals (--data: zip of train/CLASS/*.JPEG and "
    "val/CLASS/*.JPEG), digits (--data: mnist_t10k.npz; minutes on a laptop), fashion-tarflow (--data: fashion_mnist.npz; a normalising "
    "flow), moving-digits (--data: mnist_t10k.npz; one over videos), fashion_codes (--data: fashion_mnist.npz; a tokenizer), then "
    "fashion_tokens (--data the same; --codes: what fashion_codes wrote), blind (--data: zip of photographs; a restorer for "
    "`flowhelm restore --method pmrf`), codec (--data: zip of photographs; --price; a compressor for --method vble). All take --batch "
    "and --seed.",
)
@asks(TrainRequest, without=("recipe",))
def train(
    read: Callable[..., TrainRequest],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE --data FILE [--OPTION VALUE]...", help="The recipe, and its own options."),
    ] = None,
) -> None:
    from ...app.options import sources
    from ...app.options.words import check, flags, sort_words

    names = ", ".join(sources.names("recipe"))
    if not words or words[0].startswith("-"):
        bad(f"name a recipe first, one of {names}: flowhelm train fashion --data fashion_mnist.npz")
    name, *others = words or []
    name = name.replace("-", "_")
    mine = own(train)
    recipe = sources.pick("recipe", name)
    rest, typed = sort_words(others, flags({"recipe": recipe}, mine), mine)
    if rest:
        bad(f"expected one recipe and its options, got also {' '.join(rest)}")
    request = read(recipe=name, recipe_options=typed["recipe"])
    check(recipe, typed["recipe"])
    from ...app.train.run import train as run

    carried_out(run(request))
