"""What samples of a picture say together, drawn: maps with a bar, the samples one after the other, and their misfits."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from .figures import DPI, figure, picture
from .strip import strip

SIDE, FLIP = 256, 512
"""Pixels: the least longer side of a map, and the most of a flip-through."""
UNIT = "in pixel values, white - black = 2"


def shown_map(values: Tensor, caption: str) -> Image.Image:
    """A map `(c, h, w)`, root mean square over the channels, with a bar from 0 to its largest value and the unit.

    Every value is a square of whole pixels. The colours are matplotlib's viridis, which is perceptually uniform.
    """
    level = values.square().mean(0).sqrt()
    top = float(level.max()) or 1e-6
    times = max(1, SIDE // max(level.shape))
    high, wide = (side * times for side in level.shape)
    size = max(13, high // 40)  # of the letters; all lengths are in pixels
    bar, gap = max(12, wide // 30), round(0.7 * size)
    across = max(wide + 2 * gap + bar + 5 * size, 24 * size)
    lines = textwrap.wrap(f"{caption}; {UNIT}", int(across / (0.56 * size)))
    down = high + 2 * gap + (len(lines) + 1) * round(1.4 * size)
    made = figure(across / DPI, down / DPI, layout=None)

    def place(left: int, width: int) -> tuple[float, float, float, float]:
        return left / across, (down - gap - high) / down, width / across, high / down

    axes = made.add_axes(place(gap, wide))
    drawn = axes.imshow(level.numpy(), cmap="viridis", vmin=0, vmax=top, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    beside = made.colorbar(drawn, cax=made.add_axes(place(2 * gap + wide, bar)), ticks=[0, top / 2, top])
    beside.ax.set_yticklabels([f"{top * share:.3g}" for share in (0, 0.5, 1)], fontsize=size * 72 / DPI)
    beside.outline.set_visible(False)
    made.text(gap / across, gap / down, "\n".join(lines), fontsize=size * 72 / DPI, linespacing=1.3, va="bottom")
    return picture(made)


def flip(path: Path, count: int, sample: Callable[[int], Tensor]) -> None:
    """All samples, `(c, h, w)` each, one after the other: small pictures by repetition, so that pixels show."""
    height, width = sample(0).shape[-2:]
    tall = min(height, max(1, round(FLIP * height / max(height, width))))
    tall *= max(1, 192 // tall)
    frames = [strip([(f"sample {i} of {count}", sample(i))], height=tall) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=350, loop=0, quality=90)


def dots(residuals: Sequence[float | None]) -> Image.Image:
    """Misfits of the samples in units of the noise, one dot each, and a line at 1, which fits the noise."""
    from matplotlib.ticker import MaxNLocator

    shown = {i: value for i, value in enumerate(residuals) if value is not None}
    made = figure(max(4.2, 0.2 * len(residuals)), 2.9)
    axes = made.add_subplot()
    axes.vlines(list(shown), 0, list(shown.values()), colors="#c8d8e8")
    axes.plot(list(shown), list(shown.values()), "o", markersize=6)
    axes.axhline(1, color="#1a7f37", linewidth=1.5)
    axes.set(
        title="Misfit of each sample: 1 (green) fits the noise", xlabel="sample", ylabel="misfit / noise",
        xlim=(-0.6, len(residuals) - 0.4), ylim=(0, max(1.5, 1.08 * max(shown.values()))),
    )  # fmt: skip
    axes.title.set_fontsize(10)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    return picture(made)
