"""SD3's transformer at a small width: which times to train at, and whether words are obeyed. 25 minutes of one core.

    python examples/rectified_transformer.py train runs/sd3 --data fashion_mnist.npz
    python examples/rectified_transformer.py table runs/sd3 --data fashion_mnist.npz

Fashion-MNIST at 16 x 16, with a text for each picture: dark or bright, and what it shows ("bright ankle boot"). The same network is
trained with each density of times for equally many steps; a training that was cut goes on from its checkpoint. The table has the Fréchet
distance of samples to the test part (pictures reduced to 8 x 8), with and without guidance, over three seeds of samples; the share of
samples in which a linear classifier sees the class that was asked for; and the share whose brightness is on the side that was asked for.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from flowhelm import NetFlow, Noise, guide, run
from flowhelm.app.files.atomic import put_picture
from flowhelm.app.show.sheet import sheet
from flowhelm.metrics import frechet_features
from flowhelm.priors.mmdit import MMDiT, numbered
from flowhelm.recipes.fashion import whole
from flowhelm.solve import integrate
from flowhelm.train import Batch, Data, fit, flow_matching, seeded
from flowhelm.train.times import Density, cosmap, logit_normal, mode, uniform

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
SHAPE, STEPS, BATCH, SAMPLES = (1, 16, 16), 1500, 64, 500
DENSITIES: dict[str, Density] = {
    "uniform": uniform, "logit-normal (0, 1)": logit_normal(), "mode (1.29)": mode(), "cosmap": cosmap,
}  # fmt: skip
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
WORDS = ("dark", "bright", *dict.fromkeys(word for name in CLASSES for word in name.split()))


def pictures(data: Path, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """`(n, 1, 16, 16)` in [-1, 1], classes `(n,)`, and whether each is brighter than half of its class; shuffled: files may be sorted."""
    images, labels = whole(data)[part]
    order = torch.randperm(len(labels), generator=seeded(0, 0, purpose="order"))
    images, labels = images[order], labels[order]
    small = fn.avg_pool2d(images.float(), 2) / 127.5 - 1
    light = small.mean((1, 2, 3))
    middle = torch.stack([light[labels == k].median() for k in range(10)])
    return small, labels, light > middle[labels]


def texts(labels: Tensor, bright: Tensor) -> list[str]:
    return [f"{'bright' if b else 'dark'} {CLASSES[int(k)]}" for k, b in zip(labels, bright, strict=True)]


def batches(data: Path, batch: int) -> Data:
    clean, labels, bright = pictures(data, "train")
    words = numbered(texts(labels, bright), WORDS)

    def made(index: int) -> Batch:
        rows = torch.randint(len(clean), (batch,), generator=seeded(0, index, purpose="pictures"))
        return Batch(clean[rows], (words[rows],))

    return made


def network() -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(SHAPE, words=len(WORDS), patch=4, width=96, layers=4, heads=3)


def flow_of(net: MMDiT) -> NetFlow:
    return NetFlow(net, SHAPE, null=(torch.zeros(4, dtype=torch.int64),))


def name_of(density: str) -> str:
    return density.partition(" ")[0]


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="folder of the weights")],
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    steps: Annotated[int, typer.Option(min=1)] = STEPS,
) -> None:
    """One network for each density."""
    out.mkdir(parents=True, exist_ok=True)
    given = batches(data, BATCH)
    for name, density in DENSITIES.items():
        net = network()
        average = copy.deepcopy(net)
        loss: Callable[..., Tensor] = partial(flow_matching, density=density, drop=0.1)
        for update in fit(
            flow_of(net), loss, given, steps=steps, average=average, rate=1e-3, warmup=100, seed=0,
            checkpoint=out / f"{name_of(name)}.checkpoint.safetensors", minutes=0.5,
        ):  # fmt: skip
            if update.index % 100 == 0:
                print(f"{name}: step {update.index} of {steps}, loss {float(update.loss):.4f}", flush=True)
        if not (out / f"{name_of(name)}.pt").exists():
            torch.save(average.state_dict(), out / f"{name_of(name)}.pt")


@app.command()
@torch.no_grad()
def table(
    out: Annotated[Path, typer.Argument(help="folder of the weights")],
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    steps: Annotated[int, typer.Option(min=1, help="of Euler")] = 20,
    samples: Annotated[int, typer.Option(min=2, help="of each of three draws; distances depend on it")] = SAMPLES,
) -> None:
    """Distance and obedience of the samples of each density that is trained; writes samples.png."""
    real, labels, bright = pictures(data, "test")
    seen = _linear(*pictures(data, "train")[:2])
    truth = float((seen(real) == labels).double().mean())
    half = [frechet_features(_small(real[a::2]), _small(real[1 - a :: 2])) for a in (0,)]
    print(
        f"The classifier finds {truth:.1%} of the test part right; two halves of it are {float(half[0]):.2f} apart.\n"
    )
    print(
        "| times | Fréchet distance | with guidance 2 | class obeyed | with guidance 2 | brightness obeyed | with guidance 2 |"
    )
    print("| --- |" + " --- |" * 6)
    rows = []
    for name in (name for name in DENSITIES if (out / f"{name_of(name)}.pt").exists()):
        net = network()
        net.load_state_dict(torch.load(out / f"{name_of(name)}.pt", weights_only=True))
        cells: dict[str, list[float]] = {}
        for scale in (1.0, 2.0):
            for seed in range(3):
                asked, light = labels[seed * samples :][:samples], bright[seed * samples :][:samples]
                rule = None if scale == 1 else partial(guide.cfg, scale=scale)
                flow = flow_of(net.eval()).bind(numbered(texts(asked, light), WORDS), guidance=rule)
                x = run(integrate(flow, flow.source(Noise(seed, range(samples))), flow.times(steps))).x
                middle = torch.stack([real[labels == k].mean((1, 2, 3)).median() for k in range(10)])
                found = {
                    "distance": float(frechet_features(_small(x), _small(real))),
                    "class": float((seen(x) == asked).double().mean()),
                    "light": float(((x.mean((1, 2, 3)) > middle[asked]) == light).double().mean()),
                }
                for key, value in found.items():
                    cells.setdefault(f"{key} {scale:g}", []).append(value)
        shown = [
            f"{fmean(v):.2f} ± {4.30 * stdev(v) / 3**0.5:.2f}" for k, v in cells.items() if k.startswith("distance")
        ]
        shares = [f"{fmean(cells[f'{key} {scale}']):.1%}" for key in ("class", "light") for scale in (1, 2)]
        print(f"| {name} | " + " | ".join([*shown, *shares]) + " |", flush=True)
        rows.append((name, x[:10]))
    put_picture(out / "samples.png", sheet(rows))


def _small(x: Tensor) -> Tensor:
    return fn.avg_pool2d(x.double(), 2).flatten(1)


def _linear(x: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Least squares from pixels to classes."""
    one = lambda y: torch.cat([y.flatten(1), y.new_ones(len(y), 1)], 1).double()  # noqa: E731
    a = one(x)
    gram = a.T @ a + 10 * torch.eye(a.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, a.T @ fn.one_hot(labels, 10).double())
    return lambda y: (one(y) @ weight).argmax(1)


if __name__ == "__main__":
    app()
