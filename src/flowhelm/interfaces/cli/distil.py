"""The command that distils."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.distil.request import DistilRequest
from .progress import carried_out
from .shell import app
from .words import asks, first, sorted_out


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Distil a prior into a student that draws in one to four calls of the network.\n\n"
    "flowhelm distil fashion --method arc_flow --steps 2 --updates 500 --out runs/two\n\n"
    "flowhelm sample fashion --student runs/two/student.safetensors\n\n"
    "Methods: arc_flow, pi_flow, free_flow (one call), straighten read no pictures; reflow draws pairs, makes paths straight and distils, "
    "in one command; mean_flow, mdt_dist, consistency and flow_turbo (a refiner beside the prior) read pictures: --data, or the teacher's. "
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
    prior, others = first(words, "prior", ": flowhelm distil fashion --method arc_flow --steps 2")
    request = read(prior=prior)
    from ... import distil as losses
    from ...app.distil.run import distil as run
    from ...app.options.signature import pick

    parts = {"method": pick("method", request.method, losses.ALL)}
    options = sorted_out(distil, others, parts, "one prior and options")
    carried_out(run(request.changed(method_options=options["method"])))
