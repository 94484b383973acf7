"""The command that fine-tunes a prior towards a reward."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.tune.request import AlignRequest
from .progress import carried_out
from .shell import app
from .words import asks, first, sorted_out


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Fine-tune a prior towards a reward: train an adapter (LoRA) for it.\n\n"
    "flowhelm align fashion --class bag --reward brightness --method vgg_flow --beta 200 --updates 100 --out runs/bright\n\n"
    "flowhelm sample fashion --class bag --adapter runs/bright/adapter.safetensors\n\n"
    "PRIOR as for `flowhelm sample`; options of the method (`flowhelm methods NAME`) are given here like any other. Rewards as for "
    "`flowhelm steer`; without a gradient (compressibility, FILE.py:FUNCTION) take --method flow_grpo or diffusion_nft.\n\n"
    "The folder holds the adapter, which diffusers loads, too; curves, sheets of the same pictures at each check, and a card. Ctrl-C saves "
    "everything, and the same command goes on, to the same adapter. It ends early when a held-out reward falls or the pictures become "
    "alike: the reward is then being fooled.",
)
@asks(AlignRequest, without=("prior", "adapter", "student"))
def align(
    read: Callable[..., AlignRequest],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRIOR [--OPTION VALUE]...", help="The prior, and options of the method."),
    ] = None,
) -> None:
    prior, others = first(words, "prior", ": flowhelm align fashion --class bag --reward brightness")
    request = read(prior=prior)
    from ... import tune
    from ...app.options.signature import pick
    from ...app.tune.run import align as run

    parts = {"method": pick("method", request.method, tune.ALL)}
    options = sorted_out(align, others, parts, "one prior and options")
    carried_out(run(request.changed(method_options=options["method"])))
