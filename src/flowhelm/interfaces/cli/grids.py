"""The command that searches for time grids."""

from collections.abc import Callable

from ...app.models.request import GridsRequest
from .progress import carried_out
from .shell import app
from .words import asks


@app.command(
    help="Find the best times to take few steps at, for one prior.\n\n"
    "flowhelm grids fashion --steps 4,8 --guided\n\n"
    "Compares evenly spaced and shifted times with those of BOSS (a dynamic programme over local errors) and its variant for the error "
    "at the end, keeps the best, and says how far it ends from a fine solution, on noises that were used for nothing else. The bundled "
    "priors have their grids already; beside weights of your own, NAME.safetensors, the file is NAME.grids.json."
)
@asks(GridsRequest, arguments=("prior",))
def grids(read: Callable[..., GridsRequest]) -> None:
    request = read()
    from ...app.models.grids import search

    carried_out(search(request))
