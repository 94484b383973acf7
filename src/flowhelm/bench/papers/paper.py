"""What a table of a paper is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """As published: means over the pictures."""

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None


class Dataset(NamedTuple):
    """The pictures of a table and the network that was trained for them.

    size     side of the pictures, in pixels
    crop     side of the middle square that is cut out of a picture before it is scaled to `size`
    model    of `priors.published.models`; of a pipeline its name on the hub
    where    the pictures are published; images: how many are measured
    """

    size: int
    crop: int
    model: str
    where: str
    images: int = 100


class Variant(NamedTuple):
    """A row of the table.

    words    the method with its options for each task, as `flowhelm bench --method` reads it, by data set
    runs     how many runs are averaged
    figures  as published, by data set and task
    """

    words: Mapping[str, Mapping[str, str]]
    figures: Mapping[str, Mapping[str, Figure]]
    runs: int = 1


class Paper(NamedTuple):
    """A table.

    title    of the paper, with its number; source: where its settings and figures are from
    tasks    function of `bench.papers.command.TASKS` that makes them
    apart    what is not as in the paper
    """

    title: str
    source: str
    tasks: str
    datasets: Mapping[str, Dataset]
    variants: Mapping[str, Variant]
    apart: tuple[str, ...] = ()
    pipeline: bool = False


CELEBA = Dataset(
    128, 178, "pnp-flow-celeba", "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset (test split)"
)
AFHQ = Dataset(256, 512, "pnp-flow-afhq-cat", "https://github.com/clovaai/stargan-v2 (AFHQ, test/cat)")
TASKS = ("denoise", "deblur", "superres", "random", "box")
"""Of PnP-Flow's protocol, in the order of its tables."""


def figures(text: str, tasks: tuple[str, ...] = TASKS) -> dict[str, Figure]:
    """`31.75/.904/.044 34.48/.936/.039 -` -> by task; - for none."""
    found = {}
    for task, word in zip(tasks, text.split(), strict=True):
        if word != "-":
            found[task] = Figure(*(float(number) for number in word.split("/")))
    return found
