"""Budget: what a prompt may cost and what it has cost: evaluations of the network, calls of the reward, decodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import ParamSpec, Self

import torch
from torch import Tensor

from .flow import Flow
from .guide.counted import Count, Counted
from .particles import prompts
from .shapes import Image, PerSample, State, Time
from .step import Reward, Step, rows_of

P = ParamSpec("P")


def budgeted(method: Callable[P, Iterator[Step]]) -> Callable[P, Iterator[Step]]:
    """A method whose flow and reward are watched; every step's info tells what each prompt has spent.

    Write it between `checked` and `torch.no_grad`. Inside, the parameter `budget` is a Budget always, a new one where
    none was given; `len(x) / particles` prompts share the batch.

    Raises, at the first `next`:
        ValueError: a batch that is no multiple of the particles; a budget of other prompts.
    """
    signature = inspect.signature(method)

    @wraps(method)
    def entered(*args: P.args, **kwargs: P.kwargs) -> Iterator[Step]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        rows = prompts(len(given["x"]), given.get("particles", 1), method.__name__)
        ledger = given["budget"] = given["budget"] or Budget()
        given["flow"], given["reward"] = ledger.watch(given["flow"], given["reward"], rows)
        for step in method(*bound.args, **bound.kwargs):
            yield step._replace(info={**step.info, **ledger.told()})

    return entered


@dataclass(eq=False)
class Budget:
    """A ledger for each of a run's prompts; rows of the batch that belong to one prompt (particles, draws) share it.

    Args:
        evaluations, rewards, decodes: at most so many per prompt.
        count: calls and backwards of the network over the whole batch; see `guide.counted`.
        spent: per prompt, each `(prompts,)` int64 on the CPU; filled by the first `watch`.

    A budget given to several runs of the same prompts goes on counting. Methods that search ask before they spend;
    those whose cost is fixed by their settings only count.
    """

    evaluations: float = float("inf")
    rewards: float = float("inf")
    decodes: float = float("inf")
    count: Count = field(default_factory=Count)
    spent: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, flow: Flow, reward: Reward, prompts: int) -> tuple[Watched, Rated]:
        """The same flow and reward (as `scored`), whose use is counted from now on; batches are multiples of `prompts` rows."""
        known = self.spent.setdefault("evaluations", torch.zeros(prompts, dtype=torch.int64))
        if len(known) != prompts:
            raise ValueError(
                f"Budget: expected the {len(known)} prompts that it began with, got {prompts}; take a new one"
            )
        for kind in ("rewards", "decodes"):
            self.spent.setdefault(kind, torch.zeros_like(known))
        return Watched(flow, self.count, self, torch.arange(prompts)), Rated(reward, self, prompts)

    def charge(self, kind: str, prompts: Tensor) -> None:
        """One unit of a kind to each prompt named, `(n,)`; one that is named twice pays twice."""
        self.spent[kind].index_add_(0, prompts, torch.ones_like(prompts))

    def left(self, kind: str) -> Tensor:
        """What each prompt may still spend: `(prompts,)` float64."""
        return getattr(self, kind) - self.spent[kind].double()

    def affords(self, price: Mapping[str, Tensor], times: int = 1) -> Tensor:
        """Which prompts can pay that price so many times more: bool `(prompts,)`."""
        return torch.stack([self.left(kind) >= times * p for kind, p in price.items()]).all(0)

    def since(self, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each prompt has spent after `before`, a former `told()`."""
        return {kind: amount - before[kind] for kind, amount in self.spent.items()}

    def told(self) -> dict[str, Tensor]:
        """What each prompt has spent, for the `info` of a step."""
        return {kind: amount.clone() for kind, amount in self.spent.items()}


@dataclass(frozen=True, eq=False)
class Watched(Counted):
    """A flow whose evaluations and decodes are charged to the prompts of the rows that they are made for."""

    budget: Budget = field(default_factory=Budget)
    owners: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    def velocity(self, x: State, t: Time) -> State:
        self.budget.charge("evaluations", self._prompts(len(x)))
        return super().velocity(x, t)

    def decode(self, clean: State) -> Image:
        self.budget.charge("decodes", self._prompts(len(clean)))
        return super().decode(clean)

    def rows(self, index: Tensor, total: int) -> Self:
        inner = self.flow.rows(index, total)
        return replace(self, flow=inner, owners=self._prompts(total)[index.cpu()])

    def _prompts(self, rows: int) -> Tensor:
        return self.owners.repeat_interleave(rows // len(self.owners))


@dataclass(frozen=True, eq=False)
class Rated:
    """A reward, as `scored`, whose calls are charged to the prompts of the rows that it rates."""

    reward: Reward
    budget: Budget
    prompts: int

    def __call__(self, image: Image) -> PerSample:
        self.budget.charge("rewards", torch.arange(self.prompts).repeat_interleave(len(image) // self.prompts))
        return scored(self.reward, image)


def unwatched(reward: Reward) -> Reward:
    """The reward that a budget watches, itself: for a control, which solves for it."""
    return reward.reward if isinstance(reward, Rated) else reward


def some_scored(reward: Reward, image: Image, rows: Tensor, total: int) -> Tensor:
    """Values of some rows of a batch of `total`, whose pictures `image` alone is; they alone are charged."""
    if isinstance(reward, Rated):
        reward.budget.charge("rewards", rows)
    return scored(rows_of(unwatched(reward), rows, total), image)


def scored(reward: Reward, image: Image) -> PerSample:
    """What choices are made by: float64 on the CPU, differentiable if the reward is; nan, which nothing beats, as -infinity."""
    return reward(image).double().cpu().nan_to_num(-torch.inf, torch.inf, -torch.inf)


__all__ = ["Budget", "Rated", "Watched", "budgeted", "scored", "some_scored", "unwatched"]
