"""aerial: pictures from above, 64 x 64, conditioned on land cover, on a scene prompt and on numbers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as fn

from ..train import Batch, Data, flow_matching, seeded, shuffled
from ..train.times import logit_normal
from .recipe import Recipe, conditional, from_photos, pictures, preconditioned, squares

CLASSES = ("grass", "field", "industry", "river or lake", "forest", "residential", "parking")
WORDS = (
    "grass", "field", "industry", "river", "lake", "forest", "residential", "parking",
    "dark", "bright", "grey", "green", "flat", "contrasty", "smooth", "detailed",
)  # fmt: skip
NUMBERS = ("brightness", "greenness", "contrast", "detail")
_SCENE = ((1,), (2,), (3,), (4, 5), (6,), (7,), (8,))  # the words of each class; 0 is no word


def aerial(data: Path, split: Path, *, batch: int = 16, seed: int = 0) -> Recipe:
    """A prior over RSSCN7 (Zou et al. 2015, doi:10.1109/LGRS.2015.2475299; research use), at half of its 128 pixels.

    Three kinds of condition, each of which may be left out: the land cover; a scene prompt (a bag of words: land cover,
    dark or bright, grey or green, flat or contrasty, smooth or detailed); and four numbers measured on the picture and
    standardised, which stand where a recipe of the EcoMapper kind has its climate: brightness, greenness (G - (R + B) / 2),
    contrast (standard deviation of the brightness) and detail (mean absolute difference of neighbours).

    Args:
        data: zip archive with CLASS/*.jpg.
        split: JSON whose "test" names the pictures that are not trained on.
        batch: pictures in a batch.
        seed: of the data's order; the network begins with the weights of `photos`.
    """
    parts = whole(data, split)
    numbers = {part: measured(clean) for part, (clean, _) in parts.items()}
    mean, std = numbers["train"].mean(0), numbers["train"].std(0)
    torch.manual_seed(seed)
    net = from_photos(classes=len(CLASSES), words=len(WORDS), numbers=len(NUMBERS))
    sets = {
        part: shuffled(*rows, (numbers[part] - mean) / std, batch=batch, seed=seed, flip=True)
        for part, rows in parts.items()
    }
    return Recipe(
        flow=conditional(net, 64),
        loss=partial(flow_matching, density=logit_normal(0.5, 1.4), weight=preconditioned(net), drop=0.0),
        data=told(sets["train"], net.null, seed),
        apart=told(sets["test"], net.null, seed),
        steps=100_000,
        rate=1e-3,
        about={
            "classes": CLASSES, "words": WORDS, "size": 64, "scale": 2.0, "looks": "turned",
            "numbers": {name: [float(m), float(s)] for name, m, s in zip(NUMBERS, mean, std, strict=True)},
        },
    )  # fmt: skip


def whole(data: Path, split: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Both parts, "train" and "test": pictures `(n, 3, 64, 64)` uint8 and labels `(n,)`, by name."""
    if not split.is_file():
        raise ValueError(f"split: expected a JSON file that names the test pictures, got '{split}'")
    try:
        apart = set(json.loads(split.read_text(encoding="utf-8"))["test"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"split: expected JSON as {{\"test\": [names]}}, got '{split}'") from None
    rows = list(pictures(data))
    folders = sorted({name.split("/")[0] for name, _ in rows})
    if len(folders) != len(CLASSES):
        raise ValueError(f"data: expected {len(CLASSES)} folders, one per class, in '{data}', got {len(folders)}")
    clean = fn.avg_pool2d(squares(rows, 128).float(), 2).round().byte()
    labels = torch.tensor([folders.index(name.split("/")[0]) for name, _ in rows])
    test = torch.tensor([name in apart for name, _ in rows])
    return {"train": (clean[~test], labels[~test]), "test": (clean[test], labels[test])}


def measured(clean: Tensor) -> Tensor:
    """The numeric conditions of uint8 pictures `(n, 3, h, w)`, in units of the [0, 1] range: `(n, 4)`."""
    x = clean.float() / 255
    grey = x.mean(1)
    detail = (grey.diff(dim=1).abs().mean((1, 2)) + grey.diff(dim=2).abs().mean((1, 2))) / 2
    return torch.stack(
        [grey.mean((1, 2)), (x[:, 1] - (x[:, 0] + x[:, 2]) / 2).mean((1, 2)), grey.std((1, 2)), detail], dim=1
    )


def prompt(label: int, numbers: Tensor) -> list[int]:
    """Every word that is true of a picture, numbered from 1: its scene, and whether it is in the lower or upper third of a number."""
    words = list(_SCENE[label])
    for index, value in enumerate(numbers.tolist()):
        if abs(value) > 0.43:  # a third of a normal law lies beyond on each side
            words.append(9 + 2 * index + (value > 0))
    return words


def told(data: Data, null: tuple[Tensor, ...], seed: int) -> Data:
    """Decides what each row is told: half of them their class alone, a tenth nothing, the others words and numbers, some left out."""

    def batch(index: int) -> Batch:
        clean, (labels, numbers), *_ = data(index)
        draw = seeded(seed + 2, index)
        kind, some = torch.rand(len(clean), generator=draw), lambda *shape: torch.rand(*shape, generator=draw)
        words = torch.zeros(len(clean), 6, dtype=torch.int64)
        for row, (label, values) in enumerate(zip(labels.tolist(), numbers, strict=True)):
            true = torch.tensor(prompt(label, values))
            words[row, : len(true)] = true
        words = torch.where((kind < 0.6)[:, None] | (some(words.shape) < 0.25), null[1], words)
        values = torch.where((kind < 0.6)[:, None] | (some(numbers.shape) < 0.25), null[2], numbers)
        labels = torch.where((kind >= 0.5) & ((kind < 0.6) | (some(len(clean)) < 0.6)), null[0], labels)
        return Batch(clean, (labels, words, values))

    return batch
