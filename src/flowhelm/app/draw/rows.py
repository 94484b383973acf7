"""Pictures drawn from a prior that is open.

    flow  = priors.load("fashion")
    drawn = drive(draw_jobs(flow, [("coat", 0), ("coat", 1), ("bag", 0)], Way(steps=25)))

A picture depends on the seed and on its number alone, not on how many are drawn, in what batches or what else (but for
the last bits of float32, which depend on the size of a batch in some kernels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...bijection import Bijection
from ...flow import Flow, Guidance
from ...guide import reused
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...step import run
from ..errors import BadInput
from ..models.batches import batches
from ..run import Run, Stepped
from .conditions import conditioned
from .solvers import Way, settled

Job = tuple[str | None, int]
"""Class, or None for none, and number of a picture."""


def jobs_of(classes: Sequence[str], count: int) -> list[Job]:
    """So many of each class, class by class; or of none."""
    labels: Sequence[str | None] = classes or [None]
    return [(label, index) for label in labels for index in range(count)]


@torch.no_grad()
def draw_jobs(
    flow: Prior,
    jobs: Sequence[Job],
    way: Way = Way(),
    *,
    prompt: str | None = None,
    numbers: Mapping[str, float] | None = None,
    guidance: Guidance | None = None,
) -> Run[Tensor]:
    """One picture per job: `(len(jobs), c, h, w)` in [-1, 1] (not clamped), on the CPU; what it is told: see `conditioned`."""

    def bound(rows: range) -> tuple[Flow, Noise]:
        some = jobs[rows.start : rows.stop]
        told = conditioned(flow, [label for label, _ in some], prompt, numbers, guidance)
        return told, Noise(way.seed, [index for _, index in some])

    return (yield from _drawn(flow, bound, len(jobs), batches(flow, len(jobs), guidance is not None), way))


@torch.no_grad()
def draw_flow(
    flow: Flow, count: int, way: Way = Way(), *, numbers: Sequence[int] | None = None, size: int | None = None
) -> Run[Tensor]:
    """Pictures of a seed from a flow as it is, `(count, c, h, w)`, not clamped; what is bound to a row stays.

    Args:
        numbers: of the pictures; None for 0 ... count - 1. size: how many at a time; None for all, of pipelines for one, which fills the
            memory.
    """
    chosen = range(count) if numbers is None else numbers

    def part(rows: range) -> tuple[Flow, Noise]:
        return flow.rows(torch.tensor(rows), count), Noise(way.seed, chosen[rows.start : rows.stop])

    return (yield from _drawn(flow, part, count, size or (1 if isinstance(flow, Pipeline) else count), way))


def _drawn(whole: Flow, part: Callable[[range], tuple[Flow, Noise]], count: int, size: int, way: Way) -> Run[Tensor]:
    """Pictures 0 ... count - 1 of the `whole` flow, `size` at a time; `part`: of some of them the flow and the noise."""
    _, solver, times = settled(whole, way)
    done, total, found = 0, (len(times) - 1) * math.ceil(count / size), []
    for first in range(0, count, size):
        flow, noise = part(range(first, min(first + size, count)))
        x = flow.source(noise).to(device_of(flow))
        for step in solver(_cheaper(flow, way.reuse), x, times, noise=noise.named("solver")):
            x = run([step]).x  # which is checked: Diverged if it is not finite
            yield Stepped(done + step.index, total, f"{count} picture{'s' * (count > 1)}")
        done += len(times) - 1
        found.append(flow.decode(x).float().cpu())
    return torch.cat(found)


def _cheaper(flow: Flow, reuse: int) -> Flow:
    if reuse == 1:
        return flow
    try:
        return reused(flow, reuse)
    except ValueError:
        raise BadInput(
            "--reuse: there is no guidance whose unguided half could be used again; give a --scale, or leave it out"
        ) from None


def device_of(flow: Flow | Bijection) -> torch.device:
    net = getattr(flow, "net", None)
    weight = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
    return getattr(net if weight is None else weight, "device", torch.device("cpu"))
