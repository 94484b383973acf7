"""Does minority guidance draw rare pictures, or bad ones?

    python -m flowhelm.bench.quality.rarity run fashion --data fashion_mnist.npz --work bench --csv rarity.csv --sheet rarity.png
    python -m flowhelm.bench.quality.rarity table rarity.csv

Rare is what has few neighbours: the mean distance to the five nearest training pictures, in the features of the classifier of
`bench.quality.classifier`. A test picture is rare if it is among the tenth that is farthest from them.
- rare: the share of samples beyond that distance; ten per cent is what real pictures have;
- to rare pictures: the Fréchet distance in those features to the rarest tenth of the training part. Noise is rare, too, and far from it;
- to all pictures: the Fréchet distance to the training part; accuracy: the share that the classifier takes for the class asked for.

`rare` (guidance by a classifier of noisy states, arXiv:2301.12334) learns ten classes of the prior's own score of rarity
(`train.rarity`) in about a minute; `minority` (arXiv:2407.11555) needs no training. The rows that a sceptic asks for: the prior as it
is, a start of a greater spread, and the one of four samples that has the highest score, at about the cost of `minority`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as fn

from ... import guide
from ...app.files.atomic import put_picture
from ...app.show.sheet import sheet as laid
from ...flow import Flow, NetFlow
from ...metrics import frechet_features
from ...priors.bundled import Prior, load
from ...rewards.classifier import Classifier, scaled
from ...rng import Noise
from ...solve import integrate
from ...step import run as final
from ...train import fit, quantiles, rarity, rarity_loss, shuffled
from .. import kept
from ..intervals import interval
from .classifier import classifier, whole

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
STEPS, CLASSES, SCORED, NEIGHBOURS = 20, 10, 4000, 5


class Noisy(nn.Module):
    """A small classifier of states at a time, `(b, c, h, w)` and `(b,)` to logits `(b, classes)`."""

    def __init__(self, channels: int, classes: int, width: int = 32):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1)
            for a, b in ((channels + 1, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width))
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = torch.cat([x, t.to(x).view(-1, 1, 1, 1).expand(len(x), 1, *x.shape[2:])], 1)
        for conv in self.convs:
            x = fn.silu(conv(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Way(NamedTuple):
    """A row: what is edited, at what scale, and the network's passes of a sample (a backward pass counts as two)."""

    name: str
    scale: float
    passes: float


WAYS = (
    Way("the prior", 0.0, STEPS),
    Way("a start 1.1 times as wide", 1.1, STEPS),
    Way("the rarest of four", 4, 4 * (STEPS + 1)),
    Way("rare", 1.0, STEPS),
    Way("rare", 3.5, STEPS),
    Way("minority", 0.3, 4 * STEPS - 3),
    Way("minority", 1.0, 4 * STEPS - 3),
    Way("minority", 3.0, 4 * STEPS - 3),
)


def told(prior: Prior, rows: Sequence[int]) -> tuple[Flow, Tensor]:
    """The prior of classes in turn, without guidance, and the classes."""
    classes = len(prior.about["classes"])
    labels = [row % classes for row in rows]
    return prior.told(labels), torch.tensor(labels)


@torch.no_grad()
def scores(prior: Prior, clean: Tensor, labels: Sequence[int], seed: int, draws: int = 2) -> Tensor:
    """The prior's own score of rarity of pictures in [-1, 1], `(b,)`."""
    return rarity(prior.told(list(labels)), clean, Noise(seed, range(len(clean))), draws=draws)


def noisy_classifier(prior: Prior, parts: dict[str, tuple[Tensor, Tensor]], steps: int = 600) -> Noisy:
    """Trained on the first `SCORED` training pictures of an order of its own."""
    pictures, labels = parts["train"]
    some = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[:SCORED]
    clean = scaled(pictures[some])
    found = torch.cat(
        [scores(prior, clean[i : i + 100], labels[some][i : i + 100].tolist(), i) for i in range(0, len(clean), 100)]
    )
    torch.manual_seed(0)
    net = Noisy(clean.shape[1], CLASSES)
    flow = NetFlow(net, tuple(clean.shape[1:]))
    data = shuffled(clean, quantiles(found, CLASSES), batch=128, seed=0, flip=True)
    for _ in fit(flow, rarity_loss, data, steps=steps, rate=2e-3, seed=0, ema=0.98):
        pass
    return net.eval()


def neighbours(features: Tensor, store: Tensor, skip: int = 0) -> Tensor:
    """Mean distance to the nearest `NEIGHBOURS`, `(n,)`; skip 1 leaves out the row itself."""
    near = [
        torch.cdist(part, store).topk(NEIGHBOURS + skip, largest=False).values[:, skip:].mean(1)
        for part in features.split(500)
    ]
    return torch.cat(near)


class Judge:
    """What is rare, by the training and the test part."""

    def __init__(self, net: Classifier, parts: dict[str, tuple[Tensor, Tensor]]):
        self.net = net
        self.train = net.judge(parts["train"][0])[0]
        test = net.judge(parts["test"][0])[0]
        self.limit = float(neighbours(test, self.train).quantile(0.9))
        own = neighbours(self.train, self.train, skip=1)
        self.rarest = self.train[own >= own.quantile(0.9)]

    def __call__(self, pictures: Tensor, labels: Tensor) -> dict[str, float]:
        features, seen = self.net.judge(pictures)
        return {
            "rare": float((neighbours(features, self.train) > self.limit).double().mean()),
            "to_rare": float(frechet_features(features, self.rarest)),
            "to_all": float(frechet_features(features, self.train)),
            "accuracy": float((seen == labels).double().mean()),
        }


@torch.no_grad()
def drawn(prior: Prior, way: Way, rows: Sequence[int], seed: int, net: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Samples of these numbers, uint8 `(b, c, h, w)`."""
    copies = int(way.scale) if way.name == "the rarest of four" else 1
    each = [row for row in rows for _ in range(copies)]
    flow, labels = told(prior, each)
    noise = Noise(seed, [row * copies + copy for row in rows for copy in range(copies)])
    if way.name == "rare":
        flow = guide.rare(flow, net, scale=way.scale)
    if way.name == "minority":
        flow = guide.minority(flow, scale=way.scale, noise=Noise(seed + 1000, noise.keys))
    x = flow.source(noise) * (way.scale if way.name.startswith("a start") else 1)
    x = final(integrate(flow, x, flow.times(STEPS))).x
    if copies > 1:
        own = scores(prior, x, labels.tolist(), seed, draws=1).view(-1, copies)
        x = x.view(-1, copies, *x.shape[1:])[torch.arange(len(rows)), own.argmax(1)]
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


@app.command("run")
def measure(
    name: Annotated[str, typer.Argument(help="fashion, aerial or animals")],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder of the classifier, which is trained if it is not there")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    out: Annotated[Path, typer.Option("--csv", help="rows; what is there is not made again")] = Path("rarity.csv"),
    sheet: Annotated[Path | None, typer.Option(help="PNG of ten samples of every way")] = None,
    samples: Annotated[int, typer.Option(min=10, help="of a way and a seed")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="of samples")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="of the training of the classifier of rarity")] = 600,
) -> None:
    """A row for each way to sample and seed."""
    parts, prior = whole(name, data, split), load(name)
    judge, net = Judge(classifier(name, parts, work), parts), noisy_classifier(prior, parts, steps)
    there = kept.stored(out)
    fields = ("prior", "way", "scale", "passes", "seed", "samples", "rare", "to_rare", "to_all", "accuracy")
    shown: list[tuple[str, Tensor]] = []
    for seed in range(seeds):
        for way in WAYS:
            key = {
                "prior": name,
                "way": way.name,
                "scale": f"{way.scale:g}",
                "seed": f"{seed}",
                "samples": f"{samples}",
            }
            if any(all(row[k] == v for k, v in key.items()) for row in there):
                continue
            rows = range(seed * samples, (seed + 1) * samples)
            pictures = torch.cat([drawn(prior, way, rows[i : i + 50], 7, net) for i in range(0, samples, 50)])
            figures = judge(pictures, told(prior, rows)[1])
            row = key | {"passes": f"{way.passes:g}"} | {k: f"{v:.4f}" for k, v in figures.items()}
            kept.append(out, row, columns=fields)
            print(f"seed {seed + 1} of {seeds}, {label(way.name, way.scale)}", file=sys.stderr, flush=True)
            if seed == 0:
                shown.append((label(way.name, way.scale), scaled(pictures[:10])))
    if sheet and shown:
        put_picture(sheet, laid(shown))
        print(f"wrote {sheet}")
    print(f"wrote {out}")


def label(name: str, scale: float) -> str:
    return f"{name}, scale {scale:g}" if name in ("rare", "minority") else name


@app.command()
def table(rows: Annotated[Path, typer.Argument(help="of `run`")]) -> None:
    """Means over the seeds, with 95 % intervals."""
    found = kept.read(rows)
    print(
        "| way | passes | rare | to rare pictures | to all pictures | accuracy |\n| --- | --- | --- | --- | --- | --- |"
    )
    for way, scale, passes in dict.fromkeys((row["way"], row["scale"], row["passes"]) for row in found):
        mine = [row for row in found if (row["way"], row["scale"]) == (way, scale)]
        cells = [
            interval(float(row[key]) for row in mine).shown(3) for key in ("rare", "to_rare", "to_all", "accuracy")
        ]
        print(f"| {label(way, float(scale))} | {float(passes):.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    app()
