"""What a steered run looked like: a contact sheet of its particles, and its reward against evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files.pictures import to_pil
from .figures import figure

LARGEST, LEAST, GAP, EDGE = 256, 96, 6, 3
_BEST = "#1a7f37"


class Tile(NamedTuple):
    """A small picture, what is written below it, and whether it is the best."""

    picture: Image.Image
    caption: str
    best: bool = False


class Line(NamedTuple):
    """A curve: points (evaluations, value). `part` is of estimates of pictures that are not finished; `beside` has its own axis."""

    name: str
    points: Sequence[tuple[float, float]]
    part: bool = False
    beside: bool = False


def small(picture: Tensor) -> Image.Image:
    """`(c, h, w)` in [-1, 1], of at most 256 and at least 96 pixels a side (by repetition)."""
    shown = to_pil(picture).convert("RGB")
    shown.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    grown = math.ceil(LEAST / max(shown.size))
    return shown.resize((grown * shown.width, grown * shown.height), Image.Resampling.NEAREST)


def contact(rows: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """A block for each label, about square; the best of each has a green frame."""
    font, every = ImageFont.load_default(12), [tile for tiles in rows.values() for tile in tiles]
    foot = round(font.getbbox("Ág")[3]) + 4
    wide = max((max(tile.picture.width, math.ceil(font.getlength(tile.caption))) for tile in every), default=0)
    high = max((tile.picture.height for tile in every), default=0)
    cell = (wide + 2 * EDGE + GAP, high + 2 * EDGE + foot + GAP)
    columns = min(8, max((math.ceil(math.sqrt(len(tiles))) for tiles in rows.values()), default=1)) or 1
    heads = [bool(label) for label in rows]
    depth = sum(math.ceil(len(tiles) / columns) for tiles in rows.values())
    across = max([columns * cell[0], *(math.ceil(font.getlength(label)) + 2 * GAP for label in rows)])
    sheet = Image.new("RGB", (across + GAP, depth * cell[1] + sum(heads) * (foot + GAP) + GAP), "white")
    draw, top = ImageDraw.Draw(sheet), GAP
    for label, tiles in rows.items():
        if label:
            draw.text((GAP, top), label, "black", font)
            top += foot + GAP
        for i, tile in enumerate(tiles):
            left, y = GAP + i % columns * cell[0], top + i // columns * cell[1]
            if tile.best:
                frame = (left, y, left + tile.picture.width + 2 * EDGE - 1, y + tile.picture.height + 2 * EDGE - 1)
                draw.rectangle(frame, outline=_BEST, width=EDGE)
            sheet.paste(tile.picture, (left + EDGE, y + EDGE))
            below = (left + EDGE + tile.picture.width / 2, y + tile.picture.height + 2 * EDGE)
            draw.text(below, tile.caption, _BEST if tile.best else "black", font, anchor="ma")
        top += math.ceil(len(tiles) / columns) * cell[1]
    return sheet


def plot(lines: Sequence[Line], label: str, path: Path) -> None:
    """Reward against evaluations, as a PNG."""
    made = figure(7, 4)
    axes = made.add_subplot()
    other = axes.twinx() if any(line.beside for line in lines) else None
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(line.name for line in lines))}
    for line in lines:
        of, shown = other if line.beside and other is not None else axes, dict(line.points)
        of.plot(
            list(shown), list(shown.values()), color=colours[line.name], linestyle="--" if line.part else "-", marker="o",
            markersize=3, drawstyle="default" if line.part or len(shown) == 1 else "steps-post",
        )  # fmt: skip
    for name, colour in colours.items():
        axes.plot([], [], color=colour, label=name)
    if any(line.part for line in lines):
        axes.plot([], [], color="#888888", linestyle="--", label="(dashed: estimates on the way)")
    axes.set(xlabel="evaluations of the network per picture", ylabel=label)
    if other is not None:
        other.set_ylabel("held out")
    axes.grid(color="#eeeeee")
    if lines:
        axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    made.savefig(path, format="png")
