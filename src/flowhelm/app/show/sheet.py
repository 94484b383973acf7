"""What was drawn from a prior, side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files.pictures import to_pil

_LEAST = 64  # pixels of a picture on a sheet, so that small ones can be seen
_GAP = 4


def sheet(rows: Sequence[tuple[str, Tensor]], *, columns: int | None = None) -> Image.Image:
    """Rows of (label, pictures `(n, c, h, w)`), or one row without a label, laid out in `columns` (default: a square)."""
    if len(rows) == 1 and not rows[0][0]:
        pictures = rows[0][1]
        columns = columns or math.ceil(math.sqrt(len(pictures)))
        rows = [("", part) for part in pictures.split(columns)]
    height, width = rows[0][1].shape[-2:]
    grown = max(1, math.ceil(_LEAST / max(height, width)))
    high, wide = grown * height, grown * width
    font = ImageFont.load_default(14)
    left = max((math.ceil(font.getlength(label)) + 2 * _GAP for label, _ in rows if label), default=0)
    across = max(len(pictures) for _, pictures in rows)
    whole = Image.new("RGB", (left + across * (wide + _GAP) - _GAP, len(rows) * (high + _GAP) - _GAP), "white")
    drawing = ImageDraw.Draw(whole)
    for row, (label, pictures) in enumerate(rows):
        top = row * (high + _GAP)
        drawing.text((left - _GAP, top + high / 2), label, "black", font, anchor="rm")
        for column, picture in enumerate(pictures):
            tile = to_pil(picture).convert("RGB").resize((wide, high), Image.Resampling.NEAREST)
            whole.paste(tile, (left + column * (wide + _GAP), top))
    return whole


def top(path: Path, side: int) -> Tensor:
    """The first row of a sheet without labels of pictures `(c, side, side)`, read back: `(columns, 3, side, side)` in [-1, 1]."""
    grown = max(1, math.ceil(_LEAST / side))
    with Image.open(path) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB")))[: grown * side : grown]
    step, columns = grown * side + _GAP, (pixels.shape[1] + _GAP) // (grown * side + _GAP)
    tiles = [pixels[:, i * step : i * step + grown * side : grown] for i in range(columns)]
    return torch.stack(tiles).permute(0, 3, 1, 2) / 127.5 - 1


def films(rows: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Rows of a sheet for rows of (label, videos `(n, frames, c, h, w)`): one for each video, of its frames."""
    return [(label, video) for label, videos in rows for video in videos]


def moving(rows: Sequence[tuple[str, Tensor]], path: Path, milliseconds: int = 150) -> None:
    """Writes a GIF of rows of (label, videos `(n, frames, c, h, w)`), all playing at once."""
    frames = [sheet([(label, videos[:, k]) for label, videos in rows]) for k in range(rows[0][1].shape[1])]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def class_rows(drawn: Tensor, jobs: Sequence[tuple[str | None, int]]) -> list[tuple[str, Tensor]]:
    """What was drawn, a row for each class, in the order of the jobs: (class or None, number)."""
    labels = list(dict.fromkeys(name for name, _ in jobs))
    return [(label or "", drawn[[i for i, (name, _) in enumerate(jobs) if name == label]]) for label in labels]
