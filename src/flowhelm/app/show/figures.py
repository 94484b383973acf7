"""Figures of matplotlib: made without its global state, saved as PNG."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

DPI = 110


def figure(width: float, height: float, *, dpi: float = DPI, layout: str | None = "constrained") -> Figure:
    """An empty one, of so many inches."""
    return Figure(figsize=(width, height), layout=layout, dpi=dpi)  # type: ignore[arg-type]


def png(made: Figure) -> bytes:
    held = BytesIO()
    made.savefig(held, format="png")
    return held.getvalue()


def picture(made: Figure) -> Image.Image:
    return Image.open(BytesIO(png(made))).convert("RGB")
