"""A plan of memory, for a terminal."""

from typing import Any

from ...app.models.fitting import TILE
from ...app.models.plan import Plan

_ENCODERS = {
    "none": "none",
    "stay": "stay on the GPU",
    "freed": "on the GPU for the prompt, freed before the network is loaded",
    "cpu": "on the CPU",
}


def table(found: Plan) -> Any:
    """What it consists of, and what its settings mean."""
    from rich.table import Table

    made = Table(box=None, show_header=False)
    made.add_column()
    made.add_column(justify="right")
    made.add_column(overflow="fold")
    for name, size in sorted(found.held.items(), key=lambda pair: -pair[1]):
        made.add_row(name, f"{size:.2f} GiB", "")
    made.add_row(
        "peak", f"{found.peak:.2f} GiB", f"of {found.vram:g} GiB, {found.reserve:g} of them in reserve", style="bold"
    )
    if found.measured is not None:
        made.add_row("measured", f"{found.measured:.2f} GiB", f"foretold / measured {found.peak / found.measured:.3f}")
    made.add_section()
    for name, text in _advice(found).items():
        made.add_row(name, "", text)
    return made


def _advice(found: Plan) -> dict[str, str]:
    settings = found.settings
    packed = "" if settings.quantize == "none" else f", the network's in {settings.quantize}"
    said = {"weights": found.dtype + packed, "text encoders": _ENCODERS[found.encoders]}
    if settings.checkpointing:
        parts = " and ".join(settings.checkpointing)
        said["checkpointing"] = f"{parts}: .enable_gradient_checkpointing(), the same result"
    if settings.chunk:
        said["rows"] = (
            f"{found.rows}, of which the network sees {settings.chunk} at a time (guide.chunked): the same result"
        )
    if settings.tiling:
        said["decoder"] = (
            f"in tiles of {TILE} pixels, in every step the same: this is another function than without, look at the seams"
        )
    return said
