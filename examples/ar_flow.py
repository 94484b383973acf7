"""Does a memory of other pictures lower the loss? Small digits, a network with and without its memory.

    python examples/ar_flow.py runs/ar --data mnist_t10k.npz --first clean --unlabelled    # 5 minutes of one core
    python examples/ar_flow.py runs/ar --data mnist_t10k.npz                               # ARFlow's own order, with labels; 5 minutes

Sequences of five digits of one class, 8 x 8, are noised to sorted times. `--first clean` begins with the clean end: five pictures show
which digit it is before the noisiest must be undone. Prints the loss at each place of held-apart sequences, at fixed times, also with the
earlier pictures of another class. A run that was cut goes on from its checkpoint.
"""

import copy
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from flowhelm import NetFlow
from flowhelm.bench.intervals import Mean, interval
from flowhelm.priors.recaller import Recaller
from flowhelm.recipes.digits import whole
from flowhelm.train import Data, fit, seeded
from flowhelm.train.ar_flow import ar_flow, sequences

LENGTH = 5


def small(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pictures of 8 x 8 in [-1, 1]."""
    clean, labels = part
    return fn.avg_pool2d(clean.float(), 4) / 127.5 - 1, labels


@torch.no_grad()
def losses(net: Recaller, data: Data, first: str, unlabelled: bool, wrong: bool = False) -> list[Mean]:
    """By place, over 1280 sequences at the times 0.1, 0.3, ..., 0.9: means of 20 batches, with their intervals."""
    found = []
    for index in range(20):
        clean, (label,), *_ = data(index)
        if wrong:  # the pictures before the last are of another sequence
            clean = torch.cat([clean[:, :-1].roll(1, 0), clean[:, -1:]], 1)
        source = torch.randn(clean.shape, generator=seeded(1, index))
        t = torch.linspace(0.1, 0.9, LENGTH).expand(len(clean), LENGTH)
        t = t.flip(1) if first == "clean" else t
        wide = t[..., None, None, None]
        told = torch.full_like(label, int(net.null[0])) if unlabelled else label
        v, _ = net.step((1 - wide) * source + wide * clean, t, told, net.empty(len(clean)))
        found.append((v - (clean - source)).square().mean((0, 2, 3, 4)).tolist())
    return [interval(place) for place in zip(*found, strict=True)]


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoints.")],
    data: Annotated[Path, typer.Option(help="mnist_t10k.npz.")],
    first: Annotated[Literal["noisy", "clean"], typer.Option(help="Where the sequences begin.")] = "noisy",
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Train and judge without labels.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 1500,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 1,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: small(part) for name, part in whole(data).items()}
    rows, apart = sequences(*parts["train"], length=LENGTH), sequences(*parts["test"], length=LENGTH, batch=64, seed=1)
    loss = partial(ar_flow, first=first, drop=1.0 if unlabelled else 0.1)
    places = (0.1, 0.3, 0.5, 0.7, 0.9) if first == "noisy" else (0.9, 0.7, 0.5, 0.3, 0.1)
    typer.echo(f"| memory | seed | {' | '.join(f't = {t}' for t in places)} | last, after another class | seconds |")
    typer.echo("| --- " * 9 + "|")
    for seed in range(seeds):
        for remembers in (False, True):
            torch.manual_seed(seed)
            net = Recaller((1, 8, 8), 10)
            for layer in net.attend:
                layer.remembers = remembers
            average, began = copy.deepcopy(net), time.process_time()
            name = f"{first}-{'unlabelled' if unlabelled else 'labelled'}-{remembers}-{seed}.safetensors"
            for update in fit(
                NetFlow(net, (1, 8, 8), null=net.null), loss, rows, steps=steps, average=average, rate=1e-3, warmup=100,
                betas=(0.9, 0.95), weight_decay=0.02, ema=0.995, seed=seed, checkpoint=out / name, minutes=1,
            ):  # fmt: skip
                if update.index % max(1, steps // 10) == 0:
                    typer.echo(f"step {update.index} of {steps}, loss {float(update.loss):.3f}", err=True)
            right = losses(average, apart, first, unlabelled)
            wrong = losses(average, apart, first, unlabelled, wrong=True)[-1]
            cells = " | ".join(value.shown(3) for value in (*right, wrong))
            typer.echo(f"| {'on' if remembers else 'off'} | {seed} | {cells} | {time.process_time() - began:.0f} |")


if __name__ == "__main__":
    typer.run(main)
