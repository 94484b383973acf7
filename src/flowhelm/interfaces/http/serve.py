"""`flowhelm serve`: restoring over HTTP, by one prior on one device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ...app.errors import BadInput
from ...app.models import opening
from ...app.models.device import to_device
from ...app.models.request import ModelRequest
from ..guard import loopback
from ..worker import HEAVY, TRIES, Worker, allowance
from .request import Limits, ServeRequest
from .work import opened

try:
    import uvicorn
    from fastapi import FastAPI

    from .app import application
except ImportError as error:
    raise BadInput(f"serve needs FastAPI and uvicorn ({error.name} is missing): pip install 'flowhelm[ui]'") from error

LAST = 5
"""Seconds in which those who wait are answered when the server is stopped."""


class Server(uvicorn.Server):
    """Which answers those who wait as soon as it is asked to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.stop()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


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
    model = ModelRequest(**{name: getattr(request, name) for name in ModelRequest.model_fields})
    opening.settled(model)
    model = model.changed(device=str(to_device(model.device)), prior=opening.where(model.prior))
    limits = Limits(**{name: getattr(request, name) for name in Limits.model_fields})
    memory, pixels = allowance(limits.budget), round(limits.megapixels * 1e6)
    worker = Worker(opened, model.model_dump(), pixels, memory, memory=memory, tries=TRIES, imports=HEAVY)
    try:
        worker.open()
        shown = f"[{host}]" if ":" in host else host
        say(f"restoring with {Path(model.prior).name} on {model.device} at http://{shown}:{request.port} (help: /docs)")
        made = application(worker, model, token=request.token, limits=limits, local=local)
        run(made, host, request.port)
    finally:
        worker.close()


def run(made: FastAPI, host: str, port: int) -> None:
    """Listens until a signal comes."""
    more: dict[str, Any] = {"log_level": "warning", "server_header": False, "timeout_graceful_shutdown": LAST}
    Server(uvicorn.Config(made, host=host, port=port, **more)).run()
