"""The command that distils."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.distil.request import DistilRequest
from .progress import carried_out
from .shell import app, bad
from .words import asks, own


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Distil a prior into a student that draws in one to four calls of the network.\n\n"
    "flowhelm distil fashion --method arc_flow --steps 2 --updates 500 --out runs/two\n\n"
    "flowhelm sample fashion --student runs/two/student.safetensors\n\n"
    "Methods: arc_flow, free_flow (one call), straighten read no pictures; reflow draws pairs, makes paths straight and distils, in one "
    "command; mean_flow, mdt_dist, consistency and flow_turbo (a refiner beside the prior) read pictures: --data, or the teacher's. "
    "Options of the loss are given here like any other; docs/distillation.md says which method pays.\n\n"
    "The folder holds the student, the log, its curve, the teacher beside the student from the same noise, and a card. Ctrl-C saves "
    "everything, and the same command goes on, to the same student.",
)
@asks(DistilRequest, without=("prior",))
def distil(
    read: Callable[..., DistilRequest],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PRIOR [--OPTION VALUE]...", help="The teacher, and options of the method's loss."),
    ] = None,
) -> None:
    if not words or words[0].startswith("-"):
        bad("name a prior first: flowhelm distil fashion --method arc_flow --steps 2")
    prior, *others = words or []
    request = read(prior=prior)
    from ... import distil as losses
    from ...app.distil.run import distil as run
    from ...app.options.signature import pick
    from ...app.options.words import flags, sort_words

    mine = own(distil)
    rest, typed = sort_words(others, flags({"method": pick("method", request.method, losses.ALL)}, mine), mine)
    if rest:
        bad(f"expected one prior and options, got also {' '.join(rest)}")
    carried_out(run(request.changed(method_options=typed.get("method", {}))))
