"""`flowhelm serve`: restoring over HTTP, by one prior on one device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...app.errors import BadInput
from ...app.models.request import ModelRequest
from ...app.restore.restorer import Restorer
from ..guard import loopback
from .request import Limits, ServeRequest

try:
    import uvicorn

    from .app import application
except ImportError as error:
    raise BadInput(f"serve needs FastAPI and uvicorn ({error.name} is missing): pip install 'flowhelm[ui]'") from error


def serve(request: ServeRequest, *, say: Callable[[str], None] = print) -> None:
    """Serves until it is stopped.

    Raises:
        BadInput: a host that other machines reach, without a token; or what is wrong with the prior.
    """
    local, host = loopback(request.host), request.host
    if not local and not request.token:
        raise BadInput(
            f"--host {host} lets other machines in: give a secret by --token or, better, in FLOWHELM_TOKEN; 127.0.0.1 needs none"
        )
    opening = {name: getattr(request, name) for name in ModelRequest.model_fields}
    restorer = Restorer(**opening, limit=round(request.megapixels * 1e6))
    limits = Limits(**{name: getattr(request, name) for name in Limits.model_fields})
    shown = f"[{host}]" if ":" in host else host
    say(
        f"restoring with {Path(restorer.prior).name} on {restorer.device} at http://{shown}:{request.port} (help: /docs)"
    )
    made = application(restorer, token=request.token, limits=limits, local=local)
    uvicorn.run(
        made, host=host, port=request.port, log_level="warning", server_header=False, timeout_graceful_shutdown=3
    )
