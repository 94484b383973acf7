"""What may be set for `flowhelm serve`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...app.models.request import MemoryRequest, ModelRequest
from ...app.options.request import Flag


class Limits(MemoryRequest):
    """What one request may ask for, and how many may wait for the device (beyond the one that has it)."""

    megabytes: float = Field(64.0, ge=0.001, description="The largest upload, in megabytes.")
    megapixels: float = Field(16.0, ge=0.001, description="The largest picture, uploaded or restored.")
    seconds: float = Field(600.0, ge=0, description="How long one run may take.")
    cost: int = Field(
        100_000,
        ge=1,
        description="Evaluations that one run may cost, those of inner solvers too; counted before it starts.",
    )
    memory: Annotated[str | None, Flag(metavar="SIZE")] = Field(
        None, description="Memory that the process that restores may hold, such as 8GB; default: half of what is free."
    )
    waiting: int = Field(8, ge=0, description="How many requests may wait for the device; one more is refused.")


class ServeRequest(Limits, ModelRequest):
    """Where the server listens, and by which prior it restores."""

    host: str = Field("127.0.0.1", description="The address to listen at; one that other machines reach needs a token.")
    port: int = Field(8000, ge=1, le=65535, description="The port to listen at.")
    token: str | None = Field(
        None, description="A secret that each request must bear; better set it in the environment."
    )
