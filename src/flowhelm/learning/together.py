"""Several processes that train the same weights, each on its part of the rows: what they have to agree on.

`accelerate launch` or torchrun starts them, and an open process group of torch.distributed says that they are there; in one process all of
this is the identity. With it n processes of b rows make the update of one process of n b rows: gradients are averaged before they are
clipped, what is computed of a whole batch (a quantile, a deviation) is computed of all rows, and what rows share is the first row's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as group


def place() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    opened = group.is_available() and group.is_initialized()
    return (group.get_rank(), group.get_world_size()) if opened else (0, 1)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Puts the mean over the processes in the place of each."""
    _, many = place()
    if many == 1 or not tensors:
        return
    flat = torch.cat([_here(each.detach()).flatten().double() for each in tensors])
    group.all_reduce(flat)
    for each, mean in zip(tensors, (flat / many).split([each.numel() for each in tensors]), strict=True):
        each.copy_(mean.view_as(each))


@torch.no_grad()
def gathered(rows: Tensor) -> Tensor:
    """The rows `(b, ...)` of all processes, in their order, where these are: `(n b, ...)`."""
    _, many = place()
    if many == 1:
        return rows
    mine = _here(rows.detach()).contiguous()
    parts = [torch.empty_like(mine) for _ in range(many)]
    group.all_gather(parts, mine)
    return torch.cat(parts).to(rows.device)


def agreed(value: float) -> float:
    """The value of the first process."""
    return float(gathered(torch.tensor([value], dtype=torch.float64))[0])


def anywhere(found: bool) -> bool:
    """Whether any process has found it."""
    return bool(gathered(torch.tensor([found], dtype=torch.uint8)).any())


def mine(rows: int) -> range:
    """The rows of a batch that are this process's: as many for each, standing together."""
    rank, many = place()
    return range(rank * rows // many, (rank + 1) * rows // many)


def _here(x: Tensor) -> Tensor:
    """Where the process group can read it."""
    return x.cuda() if group.get_backend() == "nccl" else x.cpu()
