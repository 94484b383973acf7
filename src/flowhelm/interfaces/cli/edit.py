"""The command that edits a picture."""

from collections.abc import Callable
from typing import Annotated

import typer

from ...app.edit.request import EditRequest
from ...app.models.request import check_prior
from .progress import carried_out
from .shell import app
from .words import asks, first, sorted_out


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    help="Edit a picture: draw it again as a prior that is asked to show something else.\n\n"
    "flowhelm edit scene.jpg --prior aerial --from-class field --class forest\n\n"
    "flowhelm edit photo.jpg --prior stabilityai/stable-diffusion-3.5-medium --from-prompt 'a cat on a sofa' --prompt 'a dog on a sofa' "
    "--device cuda\n\n"
    "No prior is trained for it. --keep says how much of the picture stays. Options of the method (--rate, --iterations of flow_opt_edit, "
    "--draws of flow_edit) are given here like any other.",
)
@asks(EditRequest, without=("photo",))
def edit(
    read: Callable[..., EditRequest],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO [--OPTION VALUE]...", help="The picture, and options of the method."),
    ] = None,
) -> None:
    photo, others = first(words, "picture", ": flowhelm edit scene.jpg --prior aerial --class forest")
    request = read(photo=photo)
    check_prior(request.prior)
    from ... import edit as methods
    from ...app.edit.run import edit as run
    from ...app.options.signature import pick

    parts = {"method": pick("method", request.method, methods.ALL)}
    options = sorted_out(edit, others, parts, "one picture and options")
    carried_out(run(request.changed(method_options=options["method"])))
