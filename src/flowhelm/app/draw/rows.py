"""Pictures drawn from a prior that is open.

    flow  = priors.load("fashion")
    drawn = drive(draw_jobs(flow, [("coat", 0), ("coat", 1), ("bag", 0)], steps=25))

A picture depends on the seed and on its number alone, not on how many are drawn, in what batches or what else (but for
the last bits of float32, which depend on the size of a batch in some kernels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...flow import Flow, Guidance
from ...priors.bundled import Prior
from ...priors.pipelines import Pipeline
from ...rng import Noise
from ...solve import integrate
from ...step import run
from ...transition import Transition, euler
from ..models.batches import batches
from ..run import Run, Stepped
from .conditions import conditioned

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
    *,
    prompt: str | None = None,
    numbers: Mapping[str, float] | None = None,
    guidance: Guidance | None = None,
    steps: int = 25,
    solver: Transition = euler,
    seed: int = 0,
) -> Run[Tensor]:
    """One picture per job: `(len(jobs), c, h, w)` in [-1, 1] (not clamped), on the CPU; what it is told: see `conditioned`."""
    size = batches(flow, len(jobs), guidance is not None)
    device = next(flow.net.parameters()).device
    parts, total = [], steps * math.ceil(len(jobs) / size)
    for first in range(0, len(jobs), size):
        rows = jobs[first : first + size]
        bound = conditioned(flow, [label for label, _ in rows], prompt, numbers, guidance)
        x = bound.source(Noise(seed, [index for _, index in rows])).to(device)
        done = first // size * steps
        x = yield from _integrated(bound, x, steps, solver, done, total, f"{len(jobs)} pictures")
        parts.append(flow.decode(x).cpu())
    return torch.cat(parts)


@torch.no_grad()
def draw_flow(flow: Flow, count: int, *, steps: int, solver: Transition, seed: int) -> Run[Tensor]:
    """Pictures number 0 ... count - 1 of a seed from a flow as it is, `(count, c, h, w)`, not clamped; what is bound to a row stays.

    Of pipelines one after another, since one fills the memory.
    """
    size, parts = 1 if isinstance(flow, Pipeline) else count, []
    for first in range(0, count, size):
        rows = range(first, first + size)
        part = flow.rows(torch.tensor(rows), count)
        x, text = part.source(Noise(seed, rows)).to(device_of(flow)), f"{count} picture{'s' * (count > 1)}"
        x = yield from _integrated(part, x, steps, solver, first // size * steps, count // size * steps, text)
        parts.append(part.decode(x).float().cpu())
    return torch.cat(parts)


def _integrated(flow: Flow, x: Tensor, steps: int, solver: Transition, done: int, total: int, text: str) -> Run[Tensor]:
    for step in integrate(flow, x, flow.times(steps), transition=solver):
        x = run([step]).x  # which is checked: Diverged if it is not finite
        yield Stepped(done + step.index, total, text)
    return x


def device_of(flow: Flow) -> torch.device:
    net = getattr(flow, "net", None)
    weight = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
    return getattr(net if weight is None else weight, "device", torch.device("cpu"))
