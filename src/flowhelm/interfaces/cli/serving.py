"""The commands that serve: a page of this machine, and programs over HTTP."""

from collections.abc import Callable
from typing import Annotated

import typer

from ..http.request import ServeRequest
from ..ui.request import PageRequest
from .shell import app
from .words import asks

Password = Annotated[str | None, typer.Option(envvar="FLOWHELM_PASSWORD", help="Password that the page asks for.")]
Token = Annotated[
    str | None, typer.Option(envvar="FLOWHELM_TOKEN", help=ServeRequest.model_fields["token"].description)
]


@app.command(
    help="Open the page in the browser: restore and steer pictures, compare runs, open earlier ones.\n\n"
    "flowhelm ui --runs my-runs\n\n"
    "Each run has a folder below --runs, with the files that the command line writes. Only this machine reaches the page; "
    "--host 0.0.0.0 --password ... lets others in. Install it with pip install 'flowhelm[ui]'."
)
@asks(PageRequest)
def ui(read: Callable[..., PageRequest], password: Password = None) -> None:
    from .. import ui as page

    request = read(password=password)
    page.serve(page.checked(request), browser=request.browser, say=typer.echo)


@app.command(
    help="Restore pictures over HTTP, with one prior that is loaded once.\n\n"
    "flowhelm serve --prior photos-2 --port 8000\n\n"
    "curl -F picture=@photo.jpg -F operator=deblur -F sigma=1.6 -F std=0.03 http://127.0.0.1:8000/restore -o restored.png\n\n"
    "For this machine only, unless --host names another and a token is given, which each request must bear then "
    "(Authorization: Bearer TOKEN). A page that describes every request is at /docs."
)
@asks(ServeRequest)
def serve(read: Callable[..., ServeRequest], token: Token = None) -> None:
    from ..http import serve as server

    server.serve(read(token=token), say=typer.echo)
