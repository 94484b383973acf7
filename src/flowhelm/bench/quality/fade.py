"""How far from its true colours a faded print is before and after `restore --unfade`, and what that does to a print that is not faded.

    python -m flowhelm.bench.quality.fade --data test_photos.zip

Each picture fades: black rises by 8 to 28 % of the range, white falls by 8 to 30 %, each channel by its own (up to 8 and 10 % more or
less), middle tones bend by an exponent of 0.74 to 1.35, noise of 2.5 grey levels is added. Colour error is the mean distance in
CIE Lab (delta E of 1976); about 2 is just seen. A rival is the plain stretch of each channel to its 0.5 and 99.5 % quantiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from ...app.files.dataset import whole
from ...fade import curve_of, unfaded

_XYZ = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
_WHITE = [0.95047, 1.0, 1.08883]


def faded(clean: Tensor, seed: int) -> Tensor:
    """A print `(1, 3, h, w)` in [-1, 1] that has faded, in 8 bits."""
    rng = np.random.default_rng(seed)
    low = (rng.uniform(0.08, 0.28) + rng.uniform(-0.08, 0.08, 3)).clip(0.02, 0.4)
    high = (rng.uniform(0.7, 0.92) + rng.uniform(-0.1, 0.1, 3)).clip(0.55, 0.98)
    bend = np.exp(rng.uniform(-0.2, 0.2) + rng.uniform(-0.1, 0.1, 3))
    a, b, power = (torch.from_numpy(each).float()[:, None, None] for each in (low, high, bend))
    y = a + (b - a) * (clean / 2 + 0.5) ** power
    y = y + 0.01 * torch.from_numpy(rng.standard_normal(y.shape)).float()
    return (y * 255).round().clamp(0, 255) / 127.5 - 1


def lab(picture: Tensor) -> Tensor:
    """CIE Lab `(b, 3, h, w)`, D65, of sRGB in [-1, 1]."""
    value = picture.double() / 2 + 0.5
    light = torch.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", light.new_tensor(_XYZ), light) / light.new_tensor(_WHITE)[:, None, None]
    root = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def colour_error(picture: Tensor, clean: Tensor) -> float:
    """The mean distance in Lab."""
    return float((lab(picture.clamp(-1, 1)) - lab(clean)).norm(dim=1).mean())


def stretched(picture: Tensor) -> Tensor:
    """Each channel from its 0.5 % to its 99.5 % quantile."""
    rows = picture[0].flatten(1)
    low, high = (torch.quantile(rows[:, : 2**24], q, dim=1)[:, None, None] for q in (0.005, 0.995))
    return ((picture - low) / (high - low).clamp(min=1e-3) * 2 - 1).clamp(-1, 1)


def main(
    data: Annotated[Path, typer.Option(help="zip archive of clean pictures")],
    folder: Annotated[str, typer.Option(help="of the archive")] = "CBSD68",
) -> None:
    """Fade, undo, and print a line for each picture."""
    rows = []
    for i, (name, picture) in enumerate(whole(data, folder)):
        clean = picture[None]
        y = faded(clean, i)
        found = [y, unfaded(y, curve_of(y)), stretched(y), unfaded(clean, curve_of(clean)), stretched(clean)]
        rows.append([colour_error(each, clean) for each in found])
        before, after, plain, own, other = rows[-1]
        print(
            f"{Path(name).stem:8} faded {before:5.1f} -> {after:5.1f} (stretch {plain:5.1f}); clean {own:.1f} ({other:.1f})"
        )
    table = np.array(rows)
    print("\n| | faded | undone | plain stretch | clean, undone | clean, plain stretch |\n" + "| --- " * 6 + "|")
    print("| mean colour error | " + " | ".join(f"{value:.1f}" for value in table.mean(0)) + " |")
    print("| worst | " + " | ".join(f"{value:.1f}" for value in table.max(0)) + " |")
    worse = [(table[:, k] > table[:, 0] + 0.5).sum() for k in (1, 2)]
    seen = [(table[:, k] > 2).sum() for k in (3, 4)]
    print(f"| pictures that are worse by 0.5, or by 2 | | {worse[0]} | {worse[1]} | {seen[0]} | {seen[1]} |")


if __name__ == "__main__":
    typer.run(main)
