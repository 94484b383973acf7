"""A prior in the latents of a small auto-encoder: how near its pictures come, what bounds that, and three kinds of condition.

    python -m flowhelm.bench.quality.latents train --data fashion_mnist.npz --work bench
    python -m flowhelm.bench.quality.latents table --data fashion_mnist.npz --work bench --sheet latents.png
    python -m flowhelm.bench.quality.latents bound --data fashion_mnist.npz --work bench

`train` (about seven minutes of one core; goes on where it was cut): an auto-encoder of 32 x 32 clothes to 4 x 8 x 8 numbers, then three
flows in its latents (Dao et al. 2023, arXiv:2307.08698): given the class; it and a picture whose lower half is missing; the class and
a semantic map (cloth or background). `table`:

- the Fréchet distance to test pictures, in the features of `bench.quality.classifier`, and the share that has the class asked for, beside
  the bundled prior `fashion` in pixels, as many training pictures, and test pictures that were only encoded and decoded;
- of the missing half: its root mean square error, beside `hqs` with the pixel prior, and the mean of the class;
- of the map: the share of pixels that are cloth where asked, intersection over union, beside the flow that sees no map.

`bound` (one minute): that of the paper, W2(pictures) <= sqrt(E|x - decode(encode(x))|^2) + Lip(decode) W2(latents): distances by exact
transport between equally many samples and test pictures (training pictures beside them show what so few can tell), the Lipschitz
constant the largest singular value of the decoder's derivative that was found at drawn latents, a lower estimate of the constant.
Means over parts of the test set that share no picture, each with samples and training pictures of its own, with a 95 % interval.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from ... import restore, sample
from ...app.files.atomic import put_picture
from ...app.show.sheet import sheet as laid
from ...codec import Standardized, standardized
from ...flow import NetFlow
from ...measure import Measurement
from ...metrics import frechet_features
from ...operators import inpaint
from ...priors.bundled import load
from ...priors.unet import UNet
from ...recipes.fashion import CLASSES
from ...rewards.classifier import scaled
from ...rng import Noise
from ...start import begin
from ...step import run as final
from ...train import Alone, Batch, Data, fit, flow_matching, shuffled
from ...train.latent import Concatenated, cached, masked, semantic
from ..intervals import interval
from .classifier import classifier, whole

app = typer.Typer(no_args_is_help=True, add_completion=False, help=(__doc__ or "").partition("\n")[0])
CHANNELS, SIDE = 4, 8
KINDS = {"class": 0, "half": CHANNELS + 1, "map": 2}
"""Channels of the map that a flow is told beside the class."""


class Squeezed(nn.Module):
    """32 x 32 grey pixels to 4 x 8 x 8 numbers, and back."""

    def __init__(self, width: int = 32):
        super().__init__()
        down: list[nn.Module] = [nn.Conv2d(1, width, 3, 1, 1), nn.SiLU()]
        up: list[nn.Module] = [nn.Conv2d(CHANNELS, 2 * width, 3, 1, 1), nn.SiLU()]
        for a, b in ((width, 2 * width), (2 * width, 2 * width)):
            down += [nn.Conv2d(a, b, 3, 2, 1), nn.SiLU()]
        for a, b in ((2 * width, 2 * width), (2 * width, width)):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, 1, 1), nn.SiLU()]
        self.down = nn.Sequential(*down, nn.Conv2d(2 * width, CHANNELS, 3, 1, 1))
        self.up = nn.Sequential(*up, nn.Conv2d(width, 1, 3, 1, 1))

    def encode(self, image: Tensor) -> Tensor:
        out: Tensor = self.down(image)
        return out

    def decode(self, latent: Tensor) -> Tensor:
        out: Tensor = self.up(latent)
        return out

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (CHANNELS, height // 4, width // 4)


def squared(flow: Alone, batch: Batch, generator: torch.Generator) -> Tensor:
    """The error of a picture, and a little weight on large latents."""
    net: Any = flow.net
    z = net.encode(batch.clean)
    return (net.decode(z) - batch.clean).square().flatten(1).mean(1) + 1e-4 * z.square().flatten(1).mean(1)


def half(rows: int) -> Tensor:
    """Which pixels are known, `(rows, 1, 32, 32)`: the upper half."""
    known = torch.ones(rows, 1, 32, 32)
    known[:, :, 16:] = 0
    return known


def cloth(images: Tensor) -> Tensor:
    """0 background, 1 cloth: pixels above one eighth of white, `(b, h, w)`."""
    return (images[:, 0] > -0.75).long()


def network(kind: str) -> NetFlow:
    torch.manual_seed(0)
    net: Any = UNet((48, 96), channels=CHANNELS + KINDS[kind], data_std=1.0, classes=len(CLASSES))
    return NetFlow(Concatenated(net) if KINDS[kind] else net, (CHANNELS, SIDE, SIDE))


def maps(kind: str, codec: Standardized, images: Tensor) -> tuple[Tensor, ...]:
    """What a flow of the kind is told of pictures, beside their class."""
    if kind == "half":
        return (masked(codec, images, half(len(images))),)
    return (semantic(cloth(images), 2, (SIDE, SIDE)),) if kind == "map" else ()


def kept(net: Alone | NetFlow, loss: Callable[..., Tensor], data: Data, steps: int, file: Path) -> Any:
    """The averaged network, trained up to its end; what `file` holds is not made again."""
    average = copy.deepcopy(net.net)
    for update in fit(
        net, loss, data, steps=steps, average=average, rate=2e-3, warmup=50, ema=0.99, checkpoint=file, minutes=1
    ):
        if update.index % 100 == 0:
            print(
                f"{file.stem}: step {update.index} of {steps}, loss {float(update.loss):.4f}",
                file=sys.stderr,
                flush=True,
            )
    return average.eval().requires_grad_(False)


def trained(data: Path, work: Path, steps: int) -> tuple[Standardized, dict[str, NetFlow]]:
    """The codec and the flows by kind."""
    work.mkdir(parents=True, exist_ok=True)
    part = whole("fashion", data, None)["train"]
    order = torch.randperm(len(part[0]), generator=torch.Generator().manual_seed(0))[
        :20000
    ]  # the file is sorted by class
    pictures, labels = (each[order] for each in part)
    torch.manual_seed(0)
    rows = shuffled(pictures, batch=64, seed=0, flip=True)
    net = kept(Alone(Squeezed()), squared, rows, steps, work / "latents_codec.safetensors")
    codec = standardized(net, cached(net, pictures[:2000]))
    flows, labelled = {}, shuffled(pictures, labels, batch=128, seed=1)
    for kind in KINDS:

        def told(index: int, kind: str = kind) -> Batch:
            clean, (label,), *_ = labelled(index)
            with torch.no_grad():
                return Batch(codec.encode(clean), (*maps(kind, codec, clean), label))

        flow = network(kind)
        flows[kind] = NetFlow(
            kept(flow, partial(flow_matching, drop=0.0), told, steps, work / f"latents_{kind}.safetensors"),
            flow.shape,
        )
    return codec, flows


@torch.no_grad()
def drawn(
    codec: Standardized, flow: NetFlow, labels: Tensor, told: tuple[Tensor, ...], seed: int, steps: int = 16
) -> Tensor:
    """Latents, `(n, *shape)`, by UniPC."""
    parts = []
    for index in torch.arange(len(labels)).split(100):
        bound = flow.bind(*(each[index] for each in told), labels[index])
        x = bound.source(Noise(seed, index.tolist()))
        parts.append(final(sample.unipc(bound, x, bound.times(steps))).x)
    return torch.cat(parts)


def transport(a: Tensor, b: Tensor) -> float:
    """W2 of equally many samples, by exact transport."""
    import ot  # type: ignore[import-untyped, unused-ignore]

    cost = torch.cdist(a.flatten(1).double(), b.flatten(1).double()).square().numpy()
    return float(ot.emd2([], [], cost)) ** 0.5


def steepest(codec: Standardized, latents: Tensor, rounds: int = 20) -> float:
    """The largest singular value of the decoder's derivative at these latents, by power iteration."""
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    size = torch.zeros(len(latents))
    for _ in range(rounds):
        unit = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        pushed = torch.func.jvp(codec.decode, (latents,), (unit,))[1]
        size = pushed.flatten(1).norm(dim=1)
        direction = torch.func.vjp(codec.decode, latents)[1](pushed)[0]
    return float(size.max())


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the trainings")],
    steps: Annotated[int, typer.Option(min=1, help="of each of the four trainings")] = 1200,
) -> None:
    """The auto-encoder and three flows in its latents."""
    torch.set_num_threads(1)
    trained(data, work, steps)
    print(f"wrote four networks to {work}")


@app.command()
def table(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the trainings and of the classifier")],
    steps: Annotated[int, typer.Option(min=1, help="of the trainings")] = 1200,
    samples: Annotated[int, typer.Option(min=20, help="of each row")] = 500,
    seeds: Annotated[int, typer.Option(min=1, help="times that each is drawn")] = 3,
    sheet: Annotated[Path | None, typer.Option(help="PNG")] = None,
) -> None:
    """Distances, and what conditions do."""
    torch.set_num_threads(1)
    parts = whole("fashion", data, None)
    net, (codec, flows) = classifier("fashion", parts, work), trained(data, work, steps)
    order = torch.randperm(len(parts["test"][0]), generator=torch.Generator().manual_seed(0))
    test, labels = (each[order] for each in parts["test"])
    truth, real = scaled(test[:samples]), net.judge(test)[0]
    asked = labels[:samples]
    byte = lambda x: ((x.clamp(-1, 1) + 1) * 127.5).round().byte()  # noqa: E731

    def judged(pictures: Tensor) -> tuple[float, float]:
        features, seen = net.judge(byte(pictures))
        return float(frechet_features(features, real)), float((seen == asked).double().mean())

    def ways(seed: int) -> Iterator[tuple[str, Tensor]]:
        yield "latent flow, given the class", codec.decode(drawn(codec, flows["class"], asked, (), seed))
        prior = load("fashion")
        parts_ = []
        for index in torch.arange(samples).split(50):
            bound = prior.told(asked[index].tolist())
            parts_.append(final(sample.unipc(bound, bound.source(Noise(seed, index.tolist())), bound.times(16))).x)
        yield "`fashion`, in pixels", torch.cat(parts_)
        some = torch.randperm(len(parts["train"][0]), generator=torch.Generator().manual_seed(seed))[:samples]
        yield "training pictures", scaled(parts["train"][0][some])

    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for seed in range(seeds):
            for name, pictures in ways(seed):
                found.setdefault(name, []).append(judged(pictures))
        found["test pictures, encoded and decoded"] = [judged(codec.decode(codec.encode(truth)))]
    print(
        f"{samples} pictures, {seeds} draws, 16 evaluations\n\n| pictures | Fréchet distance | has the class |\n| --- | --- | --- |"
    )
    for name, values in found.items():
        right = "-" if name == "training pictures" else interval(v[1] for v in values).shown(3)
        print(f"| {name} | {interval(v[0] for v in values).shown(3)} | {right} |")

    shown = _conditions(codec, flows, parts, truth, asked)
    if sheet:
        put_picture(sheet, laid([(name, pictures[:10]) for name, pictures in shown.items()]))
        print(f"wrote {sheet}")


@app.command()
def bound(
    data: Annotated[Path, typer.Option(help="fashion_mnist.npz")],
    work: Annotated[Path, typer.Option(help="folder of the trainings")],
    steps: Annotated[int, typer.Option(min=1, help="of the trainings")] = 1200,
    samples: Annotated[int, typer.Option(min=20, help="of each part; distances depend on it")] = 500,
    parts: Annotated[int, typer.Option(min=2, help="of the test set")] = 8,
) -> None:
    """The distance of the pictures beside what bounds it. A minute of one core."""
    torch.set_num_threads(1)
    of, (codec, flows) = whole("fashion", data, None), trained(data, work, steps)
    held, seen = (
        torch.randperm(len(of[part][0]), generator=torch.Generator().manual_seed(0)) for part in ("test", "train")
    )
    if parts * samples > min(len(held), len(seen)):
        raise typer.BadParameter(
            f"expected at most {min(len(held), len(seen))} pictures in all parts, got {parts} of {samples}"
        )
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for part in range(parts):
            mine = slice(part * samples, (part + 1) * samples)
            truth, asked = scaled(of["test"][0][held[mine]]), of["test"][1][held[mine]]
            coded = codec.encode(truth)
            z = drawn(codec, flows["class"], asked, (), part)
            error = float((codec.decode(coded) - truth).square().flatten(1).sum(1).mean().sqrt())
            slope, latent = steepest(codec, z[:50]), transport(z, coded)
            row = {
                "W2 of the pictures": transport(codec.decode(z), truth),
                "W2 of training pictures": transport(scaled(of["train"][0][seen[mine]]), truth),
                "error of the auto-encoder": error,
                "Lipschitz constant of the decoder, the largest found": slope,
                "W2 of the latents": latent,
                "the bound": error + slope * latent,
            }
            for name, value in row.items():
                found.setdefault(name, []).append(value)
            ratio = row["the bound"] / row["W2 of the pictures"]
            found.setdefault("the bound over W2 of the pictures", []).append(ratio)
    print(f"{parts} parts of {samples} pictures\n\n| to test pictures | mean |\n| --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {interval(values).shown(2)} |")
    apart = [a - b for a, b in zip(found["W2 of the pictures"], found["W2 of training pictures"], strict=True)]
    print(f"| W2 of the pictures less that of training pictures | {interval(apart).shown(2)} |")


@torch.no_grad()
def _conditions(
    codec: Standardized, flows: dict[str, NetFlow], parts: dict[str, tuple[Tensor, Tensor]], truth: Tensor, asked: Tensor, count: int = 100
) -> dict[str, Tensor]:  # fmt: skip
    """Prints what the missing half and the map do, and gives the rows of the sheet."""
    count = min(count, len(truth))
    clean, labels = truth[:count], asked[:count]
    drawn_ = {kind: codec.decode(drawn(codec, flows[kind], labels, maps(kind, codec, clean), 5)) for kind in KINDS}
    y = Measurement(clean * half(count), inpaint((1, 32, 32), mask=half(1)[0]), 0.01)
    prior, noise = load("fashion").told(labels.tolist()), Noise(5, range(count))
    rival = final(restore.hqs(prior, y, *begin(restore.hqs, prior, y, 24, noise), noise=noise)).clean
    pictures, of = parts["train"]
    means = torch.stack([scaled(pictures[of == k]).mean(0) for k in range(len(CLASSES))])[labels]
    missing = half(count) == 0
    error = lambda x: ((x - clean) * missing).square().flatten(1).sum(1).div(missing[0].sum()).sqrt()  # noqa: E731
    print("\n| lower half | root mean square error |\n| --- | --- |")
    for name, x in (
        ("latent flow, given the class and the upper half", drawn_["half"]),
        ("latent flow, given the class alone", drawn_["class"]),
        ("`hqs` with `fashion`, 24 evaluations", rival),
        ("the mean of the class", means),
    ):
        print(f"| {name} | {interval(error(x).tolist()).shown(3)} |")
    both = lambda x: _overlap(cloth(x), cloth(clean))  # noqa: E731
    print("\n| semantic map | intersection over union |\n| --- | --- |")
    print(f"| latent flow, given the class and the map | {interval(both(drawn_['map'])).shown(3)} |")
    print(f"| latent flow, given the class alone | {interval(both(drawn_['class'])).shown(3)} |")
    known = half(count)
    return {
        "test picture": clean, "class": drawn_["class"], "upper half": clean * known - (1 - known), "and the class": drawn_["half"],
        "hqs": rival, "map and class": drawn_["map"],
    }  # fmt: skip


def _overlap(a: Tensor, b: Tensor) -> Sequence[float]:
    met, joined = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    out: list[float] = (met / joined.clamp(min=1)).tolist()
    return out


if __name__ == "__main__":
    app()
