"""A reward in another process, by Ray: on another machine, or a GPU of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor

from ..shapes import Image, PerSample
from ..step import Reward
from .blackbox import refuse_gradient
from .rows import rows_of


class Scorer:
    """What runs there. Only arrays go between: a reward is made where it is used."""

    def __init__(self, make: Callable[[], Reward]):
        self.reward = make()

    def score(self, image: Any, index: Any, total: int) -> Any:
        reward = self.reward if index is None else rows_of(self.reward, torch.from_numpy(index.copy()), total)
        with torch.no_grad():
            return reward(torch.from_numpy(image.copy())).float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Remote:
    """A reward in a Ray actor. Black box.

    Args:
        actor: handle of a `Scorer`.
        index, total: rows that it is asked about, of a batch of `total`; None for all.
    """

    actor: Any
    index: Tensor | None = None
    total: int = 0
    differentiable = False

    def __call__(self, image: Image) -> PerSample:
        refuse_gradient("remote", image)
        index = None if self.index is None else self.index.numpy()
        score = _ray().get(self.actor.score.remote(image.detach().float().cpu().numpy(), index, self.total))
        return torch.from_numpy(score.copy()).to(image.device)

    def rows(self, index: Tensor, total: int) -> Self:
        if self.index is not None:
            return replace(self, index=self.index[index.cpu()])
        return replace(self, index=index.cpu(), total=total)


def remote(make: Callable[[], Reward], *, cpus: float = 1, gpus: float = 0) -> Remote:
    """A reward that lives in a Ray actor. flowhelm's own.

    Args:
        make: makes the reward, over there: `partial(rewards.pick_score, "yuvalkirstain/PickScore_v1", prompts, device="cuda")`.
        cpus, gpus: reserved for it.

    Ray must have been started by whoever owns the machine; this never starts it, since a cluster listens on the network.

    Raises:
        ValueError: ray is missing, or not started.
    """
    ray = _ray()
    if not ray.is_initialized():
        raise ValueError("remote: expected Ray to be running; call ray.init(...) first")
    return Remote(ray.remote(Scorer).options(num_cpus=cpus, num_gpus=gpus).remote(make))


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise ValueError("remote: expected the package ray, which is not installed; pip install ray") from None
