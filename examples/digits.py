"""How many digits of a training are what was asked for? Half a minute of one core.

    flowhelm train digits --data mnist_t10k.npz --out runs/digits      # 3 minutes of one core
    python examples/digits.py runs/digits/digits.safetensors --data mnist_t10k.npz

A sample counts as the digit of the nearest of the 9000 training pictures, in pixels; the 1000 held-apart pictures are judged alike. Also
prints how far samples and held-apart pictures are from the nearest training picture: samples much nearer would be learnt by heart.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import flowhelm
from flowhelm.recipes.digits import CLASSES, whole


def nearest(pictures: Tensor, known: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Label of the nearest known picture, and the root mean square distance to it in [-1, 1]."""
    apart = torch.cdist(pictures.flatten(1), known.flatten(1))
    distance, index = apart.min(1)
    return labels[index], distance / known[0].numel() ** 0.5


def main(
    weights: Annotated[Path, typer.Argument(help="The file that the training wrote.")],
    data: Annotated[Path, typer.Option(help="mnist_t10k.npz.")],
    count: Annotated[int, typer.Option(min=1, help="Samples of each digit.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the solver.")] = 20,
) -> None:
    torch.set_num_threads(1)
    parts = {name: (clean.float() / 127.5 - 1, labels) for name, (clean, labels) in whole(data).items()}
    known, labels = parts["train"]
    drawn = flowhelm.generate(weights, classes=list(CLASSES), count=count, steps=steps).clamp(-1, 1)
    asked = torch.arange(len(CLASSES)).repeat_interleave(count)
    for name, pictures, truth in (("samples", drawn, asked), ("held apart", *parts["test"])):
        found, distance = nearest(pictures, known, labels)
        share = float((found == truth).float().mean())
        error = 1.96 * (share * (1 - share) / len(truth)) ** 0.5
        typer.echo(
            f"{name}: {100 * share:.1f} ± {100 * error:.1f} % are nearest to their digit; median distance {float(distance.median()):.3f}"
        )


if __name__ == "__main__":
    typer.run(main)
