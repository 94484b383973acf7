"""What the parts of FLAIR are worth: its weights over time, the noise that it keeps, its data steps.

    flowhelm presets velocity fashion --data fashion_mnist.npz --folder test_images --images 64 --out fashion.velocity.json
    python -m flowhelm.bench.quality.flair fashion --velocity fashion.velocity.json --data fashion_mnist.npz --folder test_images

Four minutes of one core. A row is FLAIR with its weights from the table of velocity errors, or with one part exchanged: the weights of the
prior N(0, I) (`restore.flair` without a table), the same weight at all times (the paper's "without CRW"), fresh noise at each step instead
of the network's own ("without DTA"), a single data step after each step instead of as many as the noise of the measurement asks for, 15 at
most ("without HDC"). `weight`, and `carry` but in the row of fresh noise, are chosen for each row and task by PSNR on other pictures than
those of the table. In it PSNR in dB with a 95 % interval over pictures, in brackets the weight and `carry` that were chosen, and what the
row gains (below 0: loses) beside the whole, picture by picture.
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


ROWS = ("weights of N(0, I)", "one weight", "fresh noise", "one data step")


def rows(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> the options in which a row differs, `carry` where it is not to be chosen."""
    calibrated = {"weights": weights(file)}
    others: tuple[dict[str, Any], ...] = (
        {},
        {"weights": torch.ones_like},
        calibrated | {"carry": 0.0},
        calibrated | {"inner": 1},
    )
    return {"FLAIR": calibrated, **dict(zip(ROWS, others, strict=True))}


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
    images: Annotated[int, typer.Option(min=2, help="of the table")] = 24,
    tried: Annotated[int, typer.Option(min=1, help="others, by which settings are chosen")] = 6,
    size: Annotated[int | None, typer.Option(help="side of the crops; the prior's if not given")] = None,
    steps: Annotated[int, typer.Option(min=1, help="of the grid")] = 50,
    only: Annotated[
        list[str] | None, typer.Option(help=f"rows beside FLAIR, of {'; '.join(ROWS)}; default: all")
    ] = None,
) -> None:
    """PSNR of FLAIR, and without each of its parts."""
    if unknown := set(only or ()) - set(ROWS):
        raise typer.BadParameter(f"expected rows of {'; '.join(ROWS)}, got {'; '.join(sorted(unknown))}")
    torch.set_num_threads(1)
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
        if only and name not in ("FLAIR", *only):
            continue
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
