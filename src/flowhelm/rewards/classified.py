"""Any classifier as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from .rows import owners


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

    def __call__(self, image: Tensor) -> Tensor:
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
    """The log-probability of a class, by any network of logits, such as a torchvision classifier.

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
