"""What the parts of FLAIR are worth: its weights over time, the noise that it keeps, its data steps.

    flowhelm presets velocity fashion --data fashion_mnist.npz --folder test_images --images 64 --out fashion.velocity.json
    python -m flowhelm.bench.quality.flair fashion --velocity fashion.velocity.json --data fashion_mnist.npz --folder test_images

A row is FLAIR with its weights from the table of velocity errors, or with one part exchanged: the weights of the prior N(0, I)
(`restore.flair` without a table), the same weight at all times (without CRW), fresh noise at each step (without DTA), a single data
step (without HDC). `weight`, and `carry` but in the row without it, are chosen for each row and task by PSNR on the first pictures; the
table is of the others, PSNR in dB with a 95 % interval over pictures, and what the row loses to the whole, picture by picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ... import operators, restore
from ...app.files.dataset import pictures
from ...app.models.velocity_error import weights
from ...measure import simulate
from ...metrics import psnr
from ...priors.bundled import Prior, load
from ...rng import Noise
from ...step import run
from ..intervals import interval

STD = 0.05
WEIGHT, CARRY = (0.1, 0.2, 0.5, 1.0), (0.3, 1.0)
TASKS: dict[str, Callable[[tuple[int, int, int]], Any]] = {
    "blur": partial(operators.deblur, border="circular"),
    "4 x 4 averaged": partial(operators.superres, factor=4),
    "a box": operators.box,
}


def rows(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> the options in which a row differs, `carry` where it is not to be chosen."""
    calibrated = {"weights": weights(file)}
    return {
        "FLAIR": calibrated,
        "weights of N(0, I)": {},
        "one weight": {"weights": torch.ones_like},
        "fresh noise": calibrated | {"carry": 0.0},
        "one data step": calibrated | {"inner": 1},
    }


def restored(flow: Prior, task: str, clean: Tensor, steps: int, first: int, options: dict[str, Any]) -> Tensor:
    """PSNR of each picture, `(n,)`; `first` is the number of the first picture, which names its noise."""
    noise = Noise(0, range(first, first + len(clean)))
    y = simulate(TASKS[task]((clean.shape[1], clean.shape[2], clean.shape[3])), clean, STD, noise.named("measurement"))
    made = run(restore.flair(flow, y, flow.source(noise), flow.times(steps), noise=noise, **options))
    return psnr(flow.decode(made.x), clean)


@torch.no_grad()
def main(
    prior: Annotated[str, typer.Argument(help="bundled prior or weights file")],
    velocity: Annotated[Path, typer.Option(help="table that flowhelm presets velocity has written")],
    data: Annotated[Path, typer.Option(help="pictures that the prior was not trained on")],
    folder: Annotated[str, typer.Option(help="array of the .npz or folder of the archive")] = "",
    images: Annotated[int, typer.Option(min=2, help="of the table")] = 32,
    tried: Annotated[int, typer.Option(min=1, help="others, by which settings are chosen")] = 8,
    size: Annotated[int | None, typer.Option(help="side of the crops; the prior's if not given")] = None,
    steps: Annotated[int, typer.Option(min=1, help="of the grid")] = 50,
) -> None:
    """PSNR of FLAIR, and without each of its parts."""
    flow = load(prior)
    side = size or flow.shape[-1]
    flow = flow.sized(side, side)
    found = pictures(data, channels=flow.shape[0], size=side, folder=folder, images=images + tried, spread=True).clean
    first = torch.arange(images + tried) % max(2, (images + tried) // tried) == 0  # spread over what is there
    first &= first.cumsum(0) <= tried
    chosen_on, shown = found[first], found[~first]
    print("| row | " + " | ".join(f"{task} | beside the whole" for task in TASKS) + " |")
    print("| --- |" + " --- |" * (2 * len(TASKS)))
    whole: dict[str, Tensor] = {}
    for name, own in rows(velocity).items():
        cells = []
        for task in TASKS:
            settings = [
                own | {"weight": weight, "carry": carry}
                for weight, carry in product(WEIGHT, (own["carry"],) if "carry" in own else CARRY)
            ]
            scores = [float(restored(flow, task, chosen_on, steps, 0, each).mean()) for each in settings]
            best = settings[scores.index(max(scores))]
            got = restored(flow, task, shown, steps, tried, best)
            beside = interval((got - whole.setdefault(task, got)).tolist())
            cells.append(f"{interval(got.tolist()).shown(2)} ({best['weight']:g}, {best['carry']:g})")
            cells.append("-" if name == "FLAIR" else beside.shown(2))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
