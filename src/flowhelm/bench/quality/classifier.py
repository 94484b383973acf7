"""A small classifier of a recipe's pictures: it says whether a prior draws what it was told, and its features compare sets.

    python -m flowhelm.bench.quality.classifier fashion --data fashion_mnist.npz --work bench

A residual network with batch normalisation, trained in a few minutes on one core by SGD with a one-cycle rate (Smith &
Topin 2018, arXiv:1708.07120), mirrored and shifted pictures (aerial ones also turned by quarters) and smoothed labels
(Szegedy et al. 2016, arXiv:1512.00567, section 7). It sees the training part only, the last epoch is kept and no setting
was chosen by its test accuracy beyond a first working one. The weights stay in the folder --work and are not shipped.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor
from torch.nn import functional as fn

from ...app.files.atomic import put
from ...recipes.aerial import whole as aerial
from ...recipes.animals import whole as animals
from ...recipes.fashion import whole as fashion
from ...rewards.classifier import Classifier, read, scaled
from ...train import seeded


class Training(NamedTuple):
    """How one set is learned: widths of the levels, each half as fine as the one before; the first is at half resolution."""

    widths: tuple[int, ...]
    epochs: int
    shift: int
    turned: bool = False


TRAININGS = {
    "fashion": Training((32, 64, 96), 4, 0),
    "aerial": Training((24, 48, 96, 128), 30, 6, turned=True),
    "animals": Training((24, 48, 96, 128), 20, 6),
}


def whole(name: str, data: Path, split: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """The two parts of a recipe's set, "train" and "test": pictures `(n, c, h, w)` uint8 and labels `(n,)`."""
    if name == "aerial":
        if split is None:
            raise ValueError("split: expected the JSON file that names the test pictures of aerial; give --split")
        return aerial(data, split)
    readers = {"fashion": fashion, "animals": animals}
    if name not in readers:
        raise ValueError(f"set: expected one of {', '.join(TRAININGS)}, got '{name}'")
    return readers[name](data)


def augmented(x: Tensor, shift: int, turned: bool, generator: torch.Generator) -> Tensor:
    """Each picture mirrored or not, moved by up to `shift` pixels (its border repeated) and, if `turned`, by quarters."""
    rows, size = len(x), x.shape[-1]
    mirrored = torch.rand(rows, generator=generator) < 0.5
    x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    if turned:
        quarters = torch.randint(4, (rows,), generator=generator)
        x = torch.stack([torch.rot90(row, int(k), (1, 2)) for row, k in zip(x, quarters, strict=True)])
    padded = fn.pad(x, (shift,) * 4, mode="replicate")
    moves = torch.randint(2 * shift + 1, (rows, 2), generator=generator).tolist()
    return torch.stack(
        [row[:, top : top + size, left : left + size] for row, (top, left) in zip(padded, moves, strict=True)]
    )


@torch.enable_grad()  # whoever measures without gradients may find that there is no classifier yet
def learned(
    name: str, parts: dict[str, tuple[Tensor, Tensor]], batch: int = 100, seed: int = 0, epochs: int | None = None
) -> Classifier:
    """Trains on parts["train"], then measures the accuracy on parts["test"]. Prints an epoch a line."""
    of = TRAININGS[name] if epochs is None else TRAININGS[name]._replace(epochs=epochs)
    pictures, labels = parts["train"]
    torch.manual_seed(seed)
    net = Classifier(pictures.shape[1], int(labels.max()) + 1, of.widths).to(memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}],
        lr=0.1, momentum=0.9, nesterov=True,
    )  # fmt: skip
    per_epoch = len(pictures) // batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=of.epochs * per_epoch)
    began = time.monotonic()
    for epoch in range(of.epochs):
        draw = seeded(seed, epoch)
        order, right, total = torch.randperm(len(pictures), generator=draw), 0, 0.0
        net.train()
        for rows in order[: per_epoch * batch].split(batch):
            x = augmented(scaled(pictures[rows]), of.shift, of.turned, draw).to(memory_format=torch.channels_last)
            logits = net(x)
            loss = fn.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            right, total = right + int((logits.argmax(1) == labels[rows]).sum()), total + float(loss.detach())
        spent = time.monotonic() - began
        print(
            f"{name} classifier: epoch {epoch + 1} of {of.epochs}, loss {total / per_epoch:.3f}, right on training rows "
            f"{right / (per_epoch * batch):.2%}, {spent / (epoch + 1) * (of.epochs - epoch - 1):.0f} s left",
            flush=True,
        )
    net.accuracy = _accuracy(net, parts)
    return net.eval().requires_grad_(False)


def _accuracy(net: Classifier, parts: dict[str, tuple[Tensor, Tensor]]) -> float:
    pictures, labels = parts["test"]
    return float((net.judge(pictures)[1] == labels).double().mean())


def classifier(
    name: str, parts: dict[str, tuple[Tensor, Tensor]], work: Path, seed: int = 0, epochs: int | None = None
) -> Classifier:
    """The set's classifier: read from `work/NAME_classifier.safetensors`, or trained (for `epochs`) and written there.

    Raises:
        ValueError: the file is of another network.
    """
    from safetensors.torch import save_file

    path = work / f"{name}_classifier.safetensors"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        net = learned(name, parts, seed=seed, epochs=epochs)
        weights, about = {k: v.contiguous() for k, v in net.state_dict().items()}, {"about": json.dumps(net.about)}
        put(path, lambda temporary: save_file(weights, temporary, about))
        return net
    net = read(path)
    if (net.head.out_features, net.channels) != (int(parts["train"][1].max()) + 1, parts["train"][0].shape[1]):
        raise ValueError(f"classifier: {str(path)!r} is of another set than {name}; delete it to train anew")
    net.accuracy = _accuracy(net, parts)
    return net


def main(
    name: Annotated[str, typer.Argument(help=", ".join(TRAININGS))],
    data: Annotated[Path, typer.Option(help="the set's file; see flowhelm.recipes")],
    work: Annotated[Path, typer.Option(help="folder for the weights")],
    split: Annotated[Path | None, typer.Option(help="aerial: JSON that names the test pictures")] = None,
    seed: Annotated[int, typer.Option(help="of weights, order and augmentation")] = 0,
    epochs: Annotated[int | None, typer.Option(help="of training; default: those of the set", min=1)] = None,
) -> None:
    """Train a set's classifier, or read it, and print its accuracy on the test part."""
    parts = whole(name, data, split)
    net = classifier(name, parts, work, seed, epochs)
    count = len(parts["test"][1])
    spread = (net.accuracy * (1 - net.accuracy) / count) ** 0.5
    print(
        f"{name} classifier: {sum(p.numel() for p in net.parameters()):,} parameters, trained on {len(parts['train'][1])} "
        f"pictures; right on {net.accuracy:.2%} ± {spread:.2%} of {count} test pictures"
    )


if __name__ == "__main__":
    typer.run(main)
