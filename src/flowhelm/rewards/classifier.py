"""Any classifier as a reward, and a small one: of the pictures that a bundled prior draws."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as fn

from ..shapes import Image, PerSample
from .rows import owners

FEATURES = 64


@dataclass(frozen=True, eq=False)
class Classified:
    """log p(label | picture) of a network; differentiable where it is.

    Args:
        net: normalised pictures `(b, c, h, w)` -> logits `(b, classes)`; rows must not depend on one another.
        labels: of the rows, `(p,)`; a batch of k p rows has k pictures (particles) of each.
        mean, std: of the network's pixels in [0, 1], one per channel or one for all.
    """

    net: nn.Module
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Image) -> PerSample:
        mean, std = (image.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        logits = self.net(((image + 1) / 2 - mean) / std)
        if logits.ndim != 2 or not 0 <= int(self.labels.min()) <= int(self.labels.max()) < logits.shape[1]:
            raise ValueError(
                f"classified: expected logits (b, classes) of more than {int(self.labels.max())} classes, got {tuple(logits.shape)}"
            )
        whose = owners("classified", len(self.labels), len(image))
        chosen = self.labels[whose].to(logits.device)
        return torch.log_softmax(logits.float(), 1).gather(1, chosen[:, None]).squeeze(1)

    def rows(self, index: Tensor, total: int) -> Self:
        """The same reward for some rows of a batch of `total`."""
        return replace(self, labels=self.labels[owners("classified", len(self.labels), total)[index.cpu()]])


def classified(
    net: nn.Module,
    label: int | Sequence[int],
    *,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
) -> Classified:
    """The log-probability of a class, by any network of logits, such as a torchvision classifier. flowhelm's own.

    Args:
        net: in evaluation mode, where its pictures are.
        label: one for all rows, or one each.
        mean, std: of the network's pixels in [0, 1]; 0.5 and 0.5: it sees [-1, 1] as it is.
            Those of ImageNet are `flowhelm.rewards.vision.IMAGENET`.

    Raises:
        ValueError: a network in training mode (its batch norms would mix rows), no label, or a negative one.
    """
    if net.training:
        raise ValueError("classified: expected a network in evaluation mode; call net.eval() first")
    labels = torch.tensor([label] if isinstance(label, int) else list(label))
    if not len(labels) or labels.is_floating_point() or labels.min() < 0:
        raise ValueError(f"classified: expected a label of at least 0, or one per row, got {label}")
    pixels = [[float(each)] if isinstance(each, int | float) else list(each) for each in (mean, std)]
    return Classified(net, labels, *pixels)


def scaled(pictures: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1]."""
    return pictures.float() / 127.5 - 1


class Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Sequential(*unit(channels, channels), nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return fn.relu(x + self.norm(self.inner(x)))


def unit(channels: int, out: int) -> tuple[nn.Module, ...]:
    """Convolution, batch normalisation, relu."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()


class Classifier(nn.Module):
    """Pictures `(b, channels, h, w)` in [-1, 1] -> logits `(b, classes)`; `features` is the layer before them, `(b, 64)`.

    Attributes:
        accuracy: on the test part, measured once after training.
    """

    accuracy: float = float("nan")

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...]):
        super().__init__()
        self.channels, self.widths = channels, list(widths)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), *unit(4 * channels, widths[0])]
        for level, width in enumerate(widths):
            if level:
                layers += [*unit(widths[level - 1], width), nn.MaxPool2d(2)]
            if level or len(widths) == 1:
                layers.append(Residual(width))
        self.body = nn.Sequential(*layers, *unit(widths[-1], FEATURES))
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def levels(self, x: Tensor) -> list[Tensor]:
        """What it sees at each fineness, from half the picture's on: after the first unit, each residual block, and the last unit."""
        found = []
        for i, layer in enumerate(self.body):
            x = layer(x)
            if i in (3, len(self.body) - 1) or isinstance(layer, Residual):
                found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    @torch.no_grad()
    def judge(self, pictures: Tensor, batch: int = 250) -> tuple[Tensor, Tensor]:
        """Features `(n, 64)` and most likely labels `(n,)` of uint8 pictures `(n, c, h, w)`."""
        self.eval()
        features = torch.cat([self.features(scaled(rows)) for rows in pictures.split(batch)])
        return features, self.head(features).argmax(1)

    @property
    def about(self) -> dict[str, Any]:
        """What a file must say of the network besides its weights."""
        return {"widths": self.widths, "classes": self.head.out_features}


def read(path: Path) -> Classifier:
    """The network of a file that `python -m flowhelm.bench.quality.classifier` wrote, in evaluation mode, frozen.

    Raises:
        ValueError: the file is of another network, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: Mapping[str, Any] = json.loads(file.metadata()["about"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (a handle, not a dict)
        net = Classifier(weights["body.1.weight"].shape[1] // 4, about["classes"], tuple(about["widths"]))
        net.load_state_dict(weights)
    except Exception as error:  # safetensors raises its own type
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"classifier: {str(path)!r} is not what python -m flowhelm.bench.quality.classifier writes ({why})"
        ) from error
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
