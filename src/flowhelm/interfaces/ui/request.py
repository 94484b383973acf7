"""What may be set for the page, `flowhelm ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...app.models.request import DeviceRequest, MemoryRequest
from ...app.options.request import Flag


class PageRequest(MemoryRequest, DeviceRequest):
    """Where the page listens, what it offers, and what it takes."""

    host: str = Field(
        "127.0.0.1", description="The address to listen at; one that other machines reach needs a password."
    )
    port: int = Field(7860, ge=1, le=65535, description="The port to listen at.")
    password: str | None = Field(None, description="What the page asks for before it opens.")
    runs: Path = Field(Path("flowhelm-runs"), description="The folder of the runs; it is made if it is not there.")
    priors: Annotated[list[str], Flag(("--prior",))] = Field(
        [],
        description="Offer this prior, too: a .safetensors file, deepinv:NAME or a diffusers pipeline; may be given several times.",
    )
    max_megapixels: float = Field(
        16.0, gt=0, description="The largest picture, in megapixels; larger ones are not even decoded."
    )
    max_upload: Annotated[int, Flag(metavar="MB")] = Field(64, ge=1, description="The largest file, in megabytes.")
    memory: Annotated[str | None, Flag(metavar="SIZE")] = Field(
        None,
        description="Memory that the process in which runs are made may hold, such as 8GB; default: half of what is free.",
    )
    waiting: int = Field(2, ge=1, description="How many runs may wait for the device; one more is refused.")
    browser: Annotated[bool, Flag(("--browser/--no-browser",))] = Field(
        True, description="Open the page in the browser."
    )
