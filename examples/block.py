"""Blockwise flow matching against one network for all times: quality by cost, on small clothes. 8 minutes of one core.

    python examples/block.py runs/block --data fashion_mnist.npz
    python examples/block.py runs/block --data fashion_mnist.npz --seeds 3   # intervals over trainings, 8 minutes each
    python examples/block.py runs/block --data fashion_mnist.npz --seeds 3 --segments 1 --segments 3 --segments 6

Fashion-MNIST at 16 x 16, equally many steps each: one network of five layers; three of them, one for each third of time; and three of two
layers with shared features of three layers, held to those of a small classifier, with and without the features carried on by a residual
network of one layer, which is trained afterwards, a third as long. `--segments` asks for other numbers than three. Prints the Fréchet
distance of 2000 samples to the test part, in the classifier's last features, and the FLOPs of a sample, by Euler steps. A training
that was cut goes on from its checkpoint.
"""

import copy
import csv
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.utils.flop_counter import FlopCounterMode

from flowhelm import NetFlow, run
from flowhelm.bench.intervals import interval
from flowhelm.metrics import frechet_features
from flowhelm.priors.blocks import Blocks
from flowhelm.recipes.fashion import whole
from flowhelm.train import Data, fit, seeded, shuffled
from flowhelm.train.block import block, residual, switched

SHAPE, SAMPLES, PART, CALLS = (1, 16, 16), 2000, 500, (6, 12, 24)
NUMBERS = {1: "one", 2: "two", 3: "three", 6: "six"}
"""Of segments, as the table says them; each divides the steps."""


class Seer(nn.Module):
    """A small classifier: what it sees in each of 4 x 4 places, and its ten classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(64, 10)

    def places(self, x: Tensor) -> Tensor:
        """`(b, 16, 64)`."""
        return self.body(x).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.places(x).mean(1))


def seer(out: Path, data: Data, steps: int = 500) -> Seer:
    torch.manual_seed(0)
    net = Seer()
    file = out / "seer.pt"
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval().requires_grad_(False)
    descent = torch.optim.AdamW(net.parameters(), 2e-3)
    for index in range(steps):
        clean, (label,), *_ = data(index)
        loss = fn.cross_entropy(net(clean), label)
        descent.zero_grad()
        loss.backward()
        descent.step()
    torch.save(net.state_dict(), file)
    return net.eval().requires_grad_(False)


def trained(net: Blocks, loss: partial, data: Data, steps: int, file: Path, seed: int) -> Blocks:
    average = copy.deepcopy(net)
    flow = NetFlow(net, SHAPE, null=net.null)
    for update in fit(
        flow,
        loss,
        data,
        steps=steps,
        average=average,
        rate=1e-3,
        warmup=100,
        weight_decay=0.0,
        ema=0.995,
        seed=seed,
        checkpoint=file,
        minutes=1,
    ):
        if update.index % max(1, steps // 5) == 0:
            typer.echo(f"{file.stem}: step {update.index} of {steps}, loss {float(update.loss):.3f}", err=True)
    return average.eval()


@torch.no_grad()
def drawn(net: Blocks, steps: int, exact: bool, samples: int, seed: int) -> tuple[Tensor, float]:
    """Samples, and FLOPs of each in millions."""
    each = net.segments if net.segments > 1 else 1
    parts = []
    for index, first in enumerate(range(0, samples, PART)):
        count = min(PART, samples - first)
        flow = NetFlow(net, SHAPE, null=net.null).bind(torch.arange(count) % 10)
        x = torch.randn(count, *SHAPE, generator=seeded(seed, index))
        with FlopCounterMode(display=False) as counter:
            parts.append(run(switched(flow, x, per_segment=steps // each, exact=exact)).x)
    return torch.cat(parts).clamp(-1, 1), counter.get_total_flops() / count / 1e6


def main(
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoints.")],
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 1000,
    samples: Annotated[int, typer.Option(min=2, help="Of each cell; distances depend on it.")] = SAMPLES,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network, from other weights and batches.")] = 1,
    segments: Annotated[
        list[int] | None, typer.Option(help=f"Of {', '.join(map(str, NUMBERS))}; may be repeated. Default: 3.")
    ] = None,
) -> None:
    torch.set_num_threads(1)
    if unknown := set(segments or ()) - set(NUMBERS):
        raise typer.BadParameter(f"segments: expected {', '.join(map(str, NUMBERS))}, got {unknown.pop()}")
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: (fn.avg_pool2d(clean.float(), 2) / 127.5 - 1, label) for name, (clean, label) in whole(data).items()}
    see = seer(out, shuffled(*parts["train"], batch=128))
    clean, label = parts["test"]
    typer.echo(
        f"classifier: {100 * float((see(clean).argmax(1) == label).float().mean()):.1f} % of the test part", err=True
    )
    features = lambda x: see.places(x).mean(1)  # noqa: E731
    held = partial(block, semantics=see.places)
    make = lambda count, depths: Blocks(SHAPE, 10, count, patch=4, depths=depths)  # noqa: E731
    ways = {"one network": (1, (0, 5, 0), block)}
    for count in segments or [3]:
        if count > 1:
            ways[f"{NUMBERS[count]} networks"] = (count, (0, 5, 0), block)
        ways[f"{NUMBERS[count]}, shared features"] = (count, (3, 2, 1), held)
    found = []
    for seed, (name, (count, depths, loss)) in product(range(seeds), ways.items()):
        rows = shuffled(*parts["train"], batch=128, seed=seed)
        torch.manual_seed(seed)
        began = time.process_time()
        file = out / f"{name.replace(' ', '_').replace(',', '')}-{seed}.safetensors"
        net = trained(make(count, depths), loss, rows, steps, file, seed)
        kinds = {name: True}
        if depths[2]:
            net.requires_grad_(False)
            net.residual.requires_grad_(True)
            file = out / f"{NUMBERS[count]}_residual-{seed}.safetensors"
            net = trained(net, residual, rows, max(1, steps // 3), file, seed)
            kinds[f"{NUMBERS[count]}, features carried on"] = False
        for kind, exact in kinds.items():
            for calls in CALLS:
                pictures, cost = drawn(net, calls, exact, samples, seed)
                distance = float(frechet_features(features(pictures), features(clean)))
                found.append(
                    {
                        "way": kind,
                        "seed": seed,
                        "steps": calls,
                        "mflops": round(cost, 1),
                        "distance": round(distance, 3),
                    }
                )
        typer.echo(f"{name}, seed {seed}: {time.process_time() - began:.0f} s", err=True)
    with (out / "block.csv").open("w", newline="", encoding="utf-8") as written:
        writer = csv.DictWriter(written, found[0])
        writer.writeheader()
        writer.writerows(found)
    typer.echo(
        "| network | " + " | ".join(f"{c} steps: MFLOPs, distance" for c in CALLS) + " |\n| --- | --- | --- | --- |"
    )
    for name in dict.fromkeys(row["way"] for row in found):
        cells = []
        for calls in CALLS:
            mine = [row for row in found if (row["way"], row["steps"]) == (name, calls)]
            cells.append(f"{mine[0]['mflops']:.0f}, {interval([row['distance'] for row in mine]).shown(2)}")
        typer.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
