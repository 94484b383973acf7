"""Scans as they come from a drawer, made of clean pictures: scratches, dust and a crease, and the mask of what is damaged."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

FINE = 4
"""Times finer than the pixels that strokes are drawn at, so that their edges are mixed with the picture."""
SEEN = 0.1
"""Share of a pixel that is damage, from which it counts."""


def scratched(
    clean: Tensor, seed: int, *, scratches: int = 4, specks: int = 20, hairs: int = 2, creases: int = 1
) -> tuple[Tensor, Tensor]:
    """`(1, 3, h, w)` in [-1, 1] -> the damaged picture, in 8 bits, and the true mask `(1, 1, h, w)`: 1 known, 0 damaged.

    Scratches are bent strokes, 1 to 3.5 pixels wide, most of them white, some black; their strength wavers. Dust is specks of 1 to 4
    pixels and short dark hairs. A crease crosses the picture, 3 to 5 pixels wide, with a rough edge.
    """
    rng = np.random.default_rng(seed)
    height, width = clean.shape[-2:]
    picture = clean[0].double().numpy().transpose(1, 2, 0)
    share = np.zeros((height, width))
    size = np.array([width, height])

    def lay(strokes: Image.Image, value: float, strength: float, wavering: float = 0.0) -> None:
        nonlocal picture, share
        cover = np.asarray(strokes.resize((width, height), Image.Resampling.BOX), float) / 255
        wave = _smooth(rng, height, width) * wavering
        cover = cover * strength * np.clip(1 - np.abs(wave), 0, 1)
        grain = value + 0.03 * rng.standard_normal((height, width, 1))
        picture = picture * (1 - cover[..., None]) + grain * cover[..., None]
        share = np.maximum(share, cover)

    def sheet() -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("L", (width * FINE, height * FINE), 0)
        return image, ImageDraw.Draw(image)

    for _ in range(creases):
        image, draw = sheet()
        along, across = (0, 1) if rng.random() < 0.5 else (1, 0)
        t = np.linspace(0, 1, 160)
        points = np.empty((160, 2))
        points[:, along] = t * size[along]
        a, b = rng.uniform(0.2, 0.8, 2) * size[across]
        points[:, across] = a + (b - a) * t + np.cumsum(rng.normal(0, 0.25, 160))
        wide = rng.uniform(3, 5)
        for p, q in pairwise(points):
            draw.line(
                [*map(float, p * FINE), *map(float, q * FINE)],
                fill=255,
                width=round(FINE * wide * rng.uniform(0.6, 1.2)),
            )
        lay(image, rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0), 0.2)
    for _ in range(scratches):
        image, draw = sheet()
        start, end = rng.uniform(0.02, 0.98, (2, 2)) * size
        bend = (start + end) / 2 + rng.normal(0, 0.08, 2) * size
        t = np.linspace(0, 1, 80)[:, None]
        curve = ((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end) * FINE
        draw.line(
            [(float(x), float(y)) for x, y in curve], fill=255, width=round(FINE * rng.uniform(1, 3.5)), joint="curve"
        )
        white = rng.random() < 0.75
        lay(image, rng.uniform(0.85, 1.0) if white else rng.uniform(-1.0, -0.85), rng.uniform(0.75, 1.0), 0.35)
    for white in (True, False):
        image, draw = sheet()
        for _ in range(specks // 2):
            x, y = rng.uniform(0, 1, 2) * size * FINE
            radii = rng.uniform(0.6, 2.0) * FINE * rng.uniform(0.7, 1.3, 2)
            draw.ellipse([x - radii[0], y - radii[1], x + radii[0], y + radii[1]], fill=255)
        for _ in range(0 if white else hairs):
            path: list[tuple[float, float]] = []
            place, angle = rng.uniform(0.1, 0.9, 2) * size * FINE, rng.uniform(0, 2 * np.pi)
            for _ in range(rng.integers(10, 25)):
                path.append((float(place[0]), float(place[1])))
                angle += rng.normal(0, 0.3)
                place = place + 1.5 * FINE * np.array([np.cos(angle), np.sin(angle)])
            draw.line(path, fill=255, width=round(1.2 * FINE), joint="curve")
        lay(image, 0.95 if white else -0.92, 0.95)
    levels = np.round((picture + 1) * 127.5).clip(0, 255)
    damaged = torch.from_numpy(levels.transpose(2, 0, 1)).float()[None] / 127.5 - 1
    return damaged, torch.from_numpy(share <= SEEN).float()[None, None]


def _smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A slowly wavering field in about [-1, 1]."""
    coarse = Image.fromarray(rng.normal(0, 0.5, (height // 24 + 2, width // 24 + 2)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
