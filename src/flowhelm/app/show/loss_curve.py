"""The losses of a training over its steps."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image

from .figures import figure, picture

Points = Sequence[tuple[float, float]]
"""(step, loss)."""


def curve(series: Mapping[str, Points]) -> Image.Image:
    """Losses over steps, the losses on a logarithmic axis. Points that are not positive numbers are left out."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    made = figure(6.8, 3.4)
    axes = made.add_subplot()
    for name, points in series.items():
        shown = {step: loss for step, loss in points if loss > 0 and math.isfinite(loss)}
        if shown:
            alone = "o" if len(shown) == 1 else None
            axes.plot(list(shown), list(shown.values()), label=name, linewidth=1.4, marker=alone)
    if axes.lines:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # within a decade more marks, and as plain numbers
            axes.yaxis.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(10, (1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=9)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(color="#eeeeee")
    return picture(made)
