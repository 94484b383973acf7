"""Pictures that a benchmark keeps for its report: PNG files in a folder beside the rows, named by what they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .rows import key
from .runner import Made

Kind = Literal["restored", "measured", "clean"]
_OF = {
    "clean": ("data", "size", "image"),
    "measured": ("data", "size", "operator", "std", "image", "seed"),
}


@dataclass
class Gallery:
    """`names` are the pictures that are kept, of seed 0."""

    folder: Path
    names: set[str] = field(default_factory=set)

    def path(self, kind: Kind, row: Mapping[str, Any]) -> Path:
        of = key(row) if kind == "restored" else tuple(row[name] for name in _OF[kind])
        return self.folder / f"{kind}-{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}.png"

    def put(self, made: Made) -> None:
        """Keeps the pictures of these rows that are to be kept."""
        for i, row in enumerate(made.rows):
            if row["image"] not in self.names or row["seed"] != 0 or row["error"]:
                continue
            image = made.outcome.image[i : i + 1]
            clean, problem = made.problem.clean[i : i + 1], made.problem
            image = problem.shown(image) if image.shape == clean.shape else image
            for kind, picture in (
                ("restored", image),
                ("measured", viewable(problem.y.y[i : i + 1], problem.shown(clean))),
                ("clean", problem.shown(clean)),
            ):
                path = self.path(kind, row)  # type: ignore[arg-type]
                if kind == "restored" or not path.exists():
                    _write(path, picture)


def viewable(y: Tensor, clean: Tensor) -> Tensor:
    """A measurement as a picture; larger ones are taken for Fourier magnitudes and shown by their logarithm, 0 in the middle."""
    if y.shape[-2] <= clean.shape[-2] and y.shape[-1] <= clean.shape[-1]:
        return y
    logs = torch.fft.fftshift(y.abs(), dim=(-2, -1)).add(1e-3).log()
    low, high = logs.amin(), logs.amax()
    return 2 * (logs - low) / (high - low) - 1


def _write(path: Path, picture: Tensor) -> None:
    from PIL import Image

    levels = ((picture[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    pixels = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(pixels).save(part, "PNG")
    part.replace(path)
