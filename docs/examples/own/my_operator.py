"""An old television: every few lines are missing."""

import torch
from torch import Tensor

from flowhelm import Linear
from flowhelm.entry import Count


def lines(shape: tuple[int, int, int], *, every: Count = 3) -> Linear:
    """Lines of a picture are missing.

    Options:
        every: one line of so many is missing
    """
    seen = (torch.arange(shape[1]) % every != 0).float()[:, None]

    def measured(image: Tensor) -> Tensor:
        return image * seen.to(image)

    return Linear(measured, shape)
