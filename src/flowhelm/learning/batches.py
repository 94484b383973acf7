"""What a training reads: a batch, and data as a function of its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..flow import Flow, NetFlow

F = TypeVar("F", bound=NetFlow)


class Batch(NamedTuple):
    """One batch.

    Attributes:
        clean: states `(b, ...)`. condition: what the network knows of each, `(b, ...)`.
        source: the source that each clean state is paired with; None: it is drawn.
        number: of the batch in its training, which `fit` writes; what changes over a training goes by it.
    """

    clean: Tensor
    condition: tuple[Tensor, ...] = ()
    source: Tensor | None = None
    number: int = 0


Data = Callable[[int], Batch]
"""Number of a batch, from 0 -> that batch, always the same one."""


def empty(rows: int, *condition: Tensor) -> Data:
    """Data of methods that read none: batches of no numbers, `(rows, 0)`, and the conditions `(n, ...)` in turn."""

    def data(index: int) -> Batch:
        place = (index * rows + torch.arange(rows)) % max([len(c) for c in condition], default=1)
        return Batch(torch.empty(rows, 0), tuple(c[place] for c in condition))

    return data


def conditioned(student: F, teacher: Flow, batch: Batch) -> tuple[F, Flow]:
    """Both, bound to the batch's conditions; the teacher's guidance stays."""
    if not batch.condition:
        return student, teacher
    if not isinstance(teacher, NetFlow):
        raise ValueError("distil: a batch with conditions needs a teacher that takes them, a NetFlow")
    return replace(student, condition=batch.condition), replace(teacher, condition=batch.condition)


def like(student: NetFlow, batch: Batch, generator: torch.Generator) -> Tensor:
    """Sources `(b, *shape)` for the rows of a batch, paired or drawn from N(0, I) where the student's weights are."""
    if batch.source is not None:
        return batch.source
    weight = next(student.net.parameters())
    return torch.randn(len(batch.clean), *student.shape, generator=generator, device=weight.device, dtype=weight.dtype)


def instants(rows: Tensor, generator: torch.Generator, density: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """A time in (0, 1) for each of the rows `(b, ...)`: uniform, or of the density, quantiles -> times."""
    u = torch.rand(len(rows), generator=generator, device=rows.device, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return (u if density is None else density(u)).to(rows)


def adaptive(error: Tensor, power: float, floor: float = 1e-2) -> Tensor:
    """The mean square of each row of an error `(b, ...)`, divided by (itself + floor)^power, which counts as a constant: `(b,)`.

    power 0: the square; 1: rows of any size pull alike (Geng et al. 2025, arXiv:2505.13447, section 4.3).
    """
    square = error.square().flatten(1).mean(1)
    return square / (square.detach() + floor) ** power
