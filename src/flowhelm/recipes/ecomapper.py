"""Scenes from above under a climate: prompts with bins and missing fields, and real scenes recoloured as if the weather were another.

EcoMapper (ICML 2025) has Sentinel-2 scenes of 104,424 places over years, with NASA's monthly climate. Here the scenes are those of RSSCN7,
whose place and date nobody knows; their vegetation is rendered, so what a climate does to it is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .aerial import CLASSES

TEMPERATURES = (-10, 0, 10, 20, 30)
PRECIPITATIONS = (0.01, 1, 5, 10, 20, 30, 50, 75)
RADIATIONS = (2, 5, 10, 15, 20, 25, 30, 40)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
CLOUDS = ((0.7, "very cloudy"), (0.5, "cloudy"), (0.3, "partially cloudy"))
COVERS = tuple(name.split()[0] for name in CLASSES)
_NAMES = {"temperature": TEMPERATURES, "precipitation": PRECIPITATIONS}
WORDS = (*COVERS, *(f"{name}{i}" for name, edges in _NAMES.items() for i in range(len(edges) + 1)))
"""Of the small networks: land cover, and the bin of each number."""
GROWN = torch.tensor([1.0, 1.0, 0.25, 0.45, 0.9, 0.55, 0.2])
"""How much of each land cover grows; assumed."""


class Scene(NamedTuple):
    """What a prompt says; None for what is not known.

    Attributes:
        cover: land cover, in any words. place: such as "Utah, United States". month: 1 to 12. year: of the picture.
        clouds: share of the sky. temperature: mean of the month, degrees Celsius. precipitation: mm a day. radiation: of the sun, W/m2.
    """

    cover: str | None = None
    place: str | None = None
    month: int | None = None
    year: int | None = None
    clouds: float | None = None
    temperature: float | None = None
    precipitation: float | None = None
    radiation: float | None = None


def prompt(scene: Scene, *, binned: bool = False) -> tuple[str, str]:
    """The sentence for both CLIP encoders, and that with the climate for T5.

    Args:
        binned: the range of a number in place of the number.

    Raises:
        ValueError: a month, a share of clouds, a precipitation or a radiation that cannot be.
    """
    month, clouds = scene.month, scene.clouds
    if (month is not None and not 1 <= month <= 12) or (clouds is not None and not 0 <= clouds <= 1):
        raise ValueError(f"prompt: expected a month of 1 to 12 and clouds in [0, 1], got {month} and {clouds}")
    if min(scene.precipitation or 0, scene.radiation or 0) < 0:
        raise ValueError(
            f"prompt: expected precipitation and radiation of at least 0, got {scene.precipitation} and {scene.radiation}"
        )
    sky = "" if clouds is None else next((f"{word} " for least, word in CLOUDS if clouds > least), "")
    when = " ".join(str(part) for part in (MONTHS[month - 1] if month else None, scene.year) if part is not None)
    first = f"a {sky}satellite image" + "".join(
        f" {joint} {part}" for joint, part in (("of", scene.cover), ("in", scene.place), ("in", when)) if part
    )
    said = [
        f"{name} {_range(value, edges) if binned else f'{value:.3g}'} {unit}"
        for name, value, edges, unit in (
            ("mean temperature", scene.temperature, TEMPERATURES, "C"),
            ("precipitation", scene.precipitation, PRECIPITATIONS, "mm a day"),
            ("solar radiation", scene.radiation, RADIATIONS, "W/m2"),
        )
        if value is not None
    ]
    return first, ". ".join([first, *([", ".join(said)] if said else [])])


def binned(value: Tensor, edges: tuple[float, ...]) -> Tensor:
    """Which bin each value is in, 0 to the number of edges; an edge belongs to the bin above it."""
    return torch.bucketize(value, torch.tensor(edges, dtype=value.dtype), right=True)


def masked(scene: Scene, chances: Mapping[str, float], generator: torch.Generator) -> Scene:
    """The scene with each field forgotten with its own probability; ValueError for a field that no scene has."""
    if unknown := set(chances) - set(Scene._fields):
        raise ValueError(f"masked: expected fields of {', '.join(Scene._fields)}, got {', '.join(sorted(unknown))}")
    gone = [name for name, chance in chances.items() if float(torch.rand((), generator=generator)) < chance]
    return scene._replace(**dict.fromkeys(gone))


def told(labels: Tensor, temperature: Tensor, precipitation: Tensor) -> Tensor:
    """Texts of three words `(n, 3)`, numbers in `WORDS` from 1: land cover `(n,)` int64, and the bins of both numbers `(n,)`.

    Raises:
        ValueError: a land cover that there is not.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(COVERS):
        raise ValueError(
            f"land covers: expected 0 to {len(COVERS) - 1} ({', '.join(COVERS)}), got {int(labels.min())} to {int(labels.max())}"
        )
    warm = 1 + len(COVERS) + binned(temperature, TEMPERATURES)
    wet = 2 + len(COVERS) + len(TEMPERATURES) + binned(precipitation, PRECIPITATIONS)
    return torch.stack([labels + 1, warm, wet], 1)


def middle(edges: tuple[float, ...], bins: Tensor) -> Tensor:
    """A value inside each bin: half-way, and beyond the outer edges as far again."""
    edge = torch.tensor(edges, dtype=torch.float32)
    inner = (edge[1:] + edge[:-1]) / 2
    ends = edge[0] - (inner[0] - edge[0]), edge[-1] + (edge[-1] - inner[-1])
    low = torch.zeros(()) if edges[0] > 0 else ends[0]
    return torch.cat([low[None], inner, ends[1][None]])[bins]


def rendered(scenes: Tensor, labels: Tensor, temperature: Tensor, precipitation: Tensor) -> Tensor:
    """Scenes `(n, 3, h, w)` in [-1, 1] as they would look: what grows is greener with rain, and below 0 degrees snow lies on all.

    The light of each pixel stays; its colour is that of soil or of leaves, by the logarithm of the rain and by how much grows there.
    """
    column = lambda v: v.view(-1, 1, 1, 1).to(scenes)  # noqa: E731
    light = scenes.mean(1, keepdim=True)
    wet = (1 + precipitation).log() / (1 + torch.tensor(80.0)).log()
    soil, leaves = (torch.tensor(c).view(1, 3, 1, 1).to(scenes) for c in ((0.2, 0.0, -0.25), (-0.3, 0.2, -0.3)))
    grown = light + column(GROWN[labels]) * torch.lerp(soil, leaves, column(wet))
    snow = 0.6 * torch.sigmoid(-(temperature + 2) / 3)
    return torch.lerp(grown, torch.full_like(grown, 0.9), column(snow)).clamp(-1, 1)


def greenness(pictures: Tensor) -> Tensor:
    """G - (R + B) / 2 of each picture, `(n,)`, in units of [-1, 1]."""
    red, green, blue = pictures.mean((2, 3)).unbind(1)
    return green - (red + blue) / 2


def _range(value: float, edges: tuple[float, ...]) -> str:
    i = int(binned(torch.tensor(float(value), dtype=torch.float64), edges))
    return (
        f"below {edges[0]}" if i == 0 else f"above {edges[-1]}" if i == len(edges) else f"{edges[i - 1]} to {edges[i]}"
    )
