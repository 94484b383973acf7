"""The command that trains."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.train.request import TrainRequest
from .progress import carried_out
from .shell import app
from .words import asks, first, sorted_out


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
    from ...app.options.words import check

    names = ", ".join(sources.names("recipe"))
    name, others = first(words, "recipe", f", one of {names}: flowhelm train fashion --data fashion_mnist.npz")
    name = name.replace("-", "_")
    recipe = sources.pick("recipe", name)
    options = sorted_out(train, others, {"recipe": recipe}, "one recipe and its options")["recipe"]
    request = read(recipe=name, recipe_options=options)
    check(recipe, options)
    from ...app.train.run import train as run

    carried_out(run(request))
