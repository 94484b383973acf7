"""scratches: scans as they come from a drawer, made of clean pictures, and a network that marks what lies on them."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as fn

from ..priors.marker import Marker
from ..train import Alone, Batch, Data, seeded
from .photos import HELD_APART, patches
from .recipe import Recipe, pictures

FINE = 4
"""Times finer than the pixels that strokes are drawn at, so that their edges are mixed with the picture."""
SEEN = 0.1
"""Share of a pixel that is damage, from which it counts."""


def scratches(data: Path, *, batch: int = 8, patch: int = 128, seed: int = 0) -> Recipe:
    """The network of `flowhelm mask`: which pixels of a scan are scratches, dust or creases.

    Args:
        data: zip archive of photographs; the last 24 by name are held apart.
        batch: patches in a batch.
        patch: their side, in pixels.
        seed: of the network's first weights, of the patches and of the damage.
    """
    images = [image for _, image in pictures(data) if min(image.shape[1:]) >= patch]
    if len(images) <= HELD_APART:
        raise ValueError(
            f"data: expected more than {HELD_APART} photographs of {patch} pixels or more in '{data}', got {len(images)}"
        )
    torch.manual_seed(seed)
    apart = marked(patches(images[-HELD_APART:], batch, patch, seed), seed)
    return Recipe(
        flow=Alone(Marker().to(memory_format=torch.channels_last)),
        loss=missed,
        data=marked(patches(images[:-HELD_APART], batch, patch, seed), seed),
        apart=apart,
        steps=4_000,
        rate=2e-3,
        about={},
        shown=shown(apart),
        ema=0.995,
    )


def marked(data: Data, seed: int) -> Data:
    """Batches of damaged patches; their first condition is 1 where there is damage."""

    def marked_batch(index: int) -> Batch:
        generator = seeded(seed, index, purpose="damage")
        rows = [scan(row, generator) for row in data(index).clean.split(1)]
        return Batch(torch.cat([row for row, _ in rows]), (torch.cat([mask for _, mask in rows]),))

    return marked_batch


def scan(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A patch `(1, 3, h, w)` with more kinds of damage than `scratched` makes by itself, and the mask of it.

    Of four, one has no damage, one of two a tint; scratches may be faint. Half of them have noise, a third went through a JPEG file,
    a fifth is grey: what is not damage.
    """
    uniform = lambda: float(torch.rand((), generator=generator))  # noqa: E731
    draw = lambda n: int(torch.randint(n, (), generator=generator))  # noqa: E731
    seed, bare = draw(2**31), uniform() < 0.25
    counts = {"scratches": draw(5), "specks": 2 * draw(6), "hairs": draw(2), "creases": int(uniform() < 0.25)}
    if bare:
        counts = dict.fromkeys(counts, 0)
    picture, known = scratched(
        clean, seed, **counts, least=0.35 + 0.4 * uniform(), tint=0.3 * uniform() if uniform() < 0.5 else 0.0
    )
    if uniform() < 0.2:
        picture = picture.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    if uniform() < 0.5:
        picture = picture + 0.08 * uniform() * torch.randn(picture.shape, generator=generator)
    levels = ((picture.clamp(-1, 1) + 1) * 127.5).round()
    if uniform() < 0.3:
        file = io.BytesIO()
        image = Image.fromarray(levels[0].permute(1, 2, 0).byte().numpy())
        image.save(file, "JPEG", quality=60 + draw(36))
        levels = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None].float()
    return levels / 127.5 - 1, 1 - known


def missed(trained: Alone, batch: Batch, generator: torch.Generator) -> Tensor:
    """Binary cross entropy of each row `(b,)`; a damaged pixel counts as three."""
    odds, damage = trained.net(batch.clean), batch.condition[0]
    each = fn.binary_cross_entropy_with_logits(odds, damage, reduction="none", pos_weight=odds.new_tensor(3.0))
    return each.flatten(1).mean(1)


def shown(apart: Data) -> Callable[[nn.Module], list[tuple[str, Tensor]]]:
    """Rows of a sheet: damaged patches, what the network marks, and what is damaged."""

    def rows(net: nn.Module) -> list[tuple[str, Tensor]]:
        batch = apart(0)
        grey = lambda share: (2 * share - 1).expand(-1, 3, -1, -1)  # noqa: E731
        return [
            ("scan", batch.clean),
            ("marked", grey(net(batch.clean).sigmoid())),
            ("damage", grey(batch.condition[0])),
        ]

    return rows


def scratched(
    clean: Tensor,
    seed: int,
    *,
    scratches: int = 4,
    specks: int = 20,
    hairs: int = 2,
    creases: int = 1,
    least: float = 0.75,
    tint: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`(1, 3, h, w)` in [-1, 1] -> the damaged picture, in 8 bits, and the true mask `(1, 1, h, w)`: 1 known, 0 damaged.

    Scratches are bent strokes, 1 to 3.5 pixels wide, most of them white, some black; their strength wavers. Dust is specks of 1 to 4
    pixels and short dark hairs. A crease crosses the picture, 3 to 5 pixels wide, with a rough edge.

    Args:
        clean: in [-1, 1]. seed: of all that is drawn.
        scratches, specks, hairs, creases: how many.
        least: strength of the faintest scratch; 1 hides what is below it.
        tint: how far the colours of what lies on the picture may be from grey.
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
        if tint:
            grain = grain + tint * rng.uniform(-1, 1, 3)
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
        lay(image, rng.uniform(0.85, 1.0) if white else rng.uniform(-1.0, -0.85), rng.uniform(least, 1.0), 0.35)
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
