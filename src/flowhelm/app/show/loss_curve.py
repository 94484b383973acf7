"""The curve of a training, drawn with Pillow."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_COLOURS = ("#4878a8", "#c05030", "#509050", "#805090")
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 20, 20, 50

Points = Sequence[tuple[float, float]]
"""(step, loss)."""


def curve(series: Mapping[str, Points], *, size: tuple[int, int] = (720, 360)) -> Image.Image:
    """Losses over steps, the losses on a logarithmic axis. Points that are not positive numbers are left out."""
    shown = {name: [(s, y) for s, y in points if y > 0 and math.isfinite(y)] for name, points in series.items()}
    values = [y for points in shown.values() for _, y in points]
    image = Image.new("RGB", size, "white")
    drawing, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    if not values:
        return image
    last = max(s for points in shown.values() for s, _ in points)
    low, high = min(values) / 1.05, max(values) * 1.05
    width, height = size[0] - _LEFT - _RIGHT, size[1] - _TOP - _BOTTOM

    def place(step: float, loss: float) -> tuple[float, float]:
        return _LEFT + width * step / last, _TOP + height * math.log(high / loss) / math.log(high / low)

    for loss in ticks(low, high):
        drawing.line([place(0, loss), place(last, loss)], "#dddddd")
        drawing.text((_LEFT - 6, place(0, loss)[1]), f"{loss:.3g}", "black", font, anchor="rm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.text((_LEFT + width * share, size[1] - _BOTTOM + 6), f"{last * share:.0f}", "black", font, anchor="ma")
    drawing.text((_LEFT + width / 2, size[1] - 20), "step", "black", font, anchor="ma")
    for i, (name, points) in enumerate(shown.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        if len(points) > 1:
            drawing.line([place(*p) for p in points], colour, 2)
        elif points:
            x, y = place(*points[0])
            drawing.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
        drawing.text((size[0] - _RIGHT, _TOP + 16 * i), name, colour, font, anchor="ra")
    return image


def ticks(low: float, high: float) -> list[float]:
    """Three to ten round numbers between two positive ones."""
    for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**d for d in decades for m in marks if low <= m * 10.0**d <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 10)]
    return [low + (high - low) * share for share in (0.05, 0.35, 0.65, 0.95)]
