"""Pictures drawn from a prior that is open.

    flow  = priors.load("fashion")
    drawn = drive(draw_jobs(flow, [("coat", 0), ("coat", 1), ("bag", 0)], steps=25))

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
from ...solve import Solver
from ...step import run
from ...transition import Transition
from ..errors import BadInput
from ..models.batches import batches
from ..run import Run, Stepped
from .conditions import conditioned
from .solvers import settled

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
    solver: str | Solver | Transition = "euler",
    grid: str | None = None,
    reuse: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> Run[Tensor]:
    """One picture per job: `(len(jobs), c, h, w)` in [-1, 1] (not clamped), on the CPU; what it is told: see `conditioned`.

    Args:
        solver, grid: see `solvers.settled`; name: of the prior there, its own if not given.
        reuse: see `guide.reused`; 1 for always.
    """

    def bound(rows: range) -> tuple[Flow, Noise]:
        some = jobs[rows.start : rows.stop]
        told = conditioned(flow, [label for label, _ in some], prompt, numbers, guidance)
        return told, Noise(seed, [index for _, index in some])

    _, made, times = settled(flow, str(name or getattr(flow, "name", "")), steps, solver, grid)
    return (yield from _drawn(bound, len(jobs), batches(flow, len(jobs), guidance is not None), made, times, reuse))


@torch.no_grad()
def draw_flow(
    flow: Flow,
    count: int,
    *,
    steps: int,
    solver: str | Solver | Transition = "euler",
    grid: str | None = None,
    reuse: int = 1,
    seed: int,
    name: str | None = None,
) -> Run[Tensor]:
    """Pictures number 0 ... count - 1 of a seed from a flow as it is, `(count, c, h, w)`, not clamped; what is bound to a row stays.

    Of pipelines one after another, since one fills the memory. Options as of `draw_jobs`.
    """

    def part(rows: range) -> tuple[Flow, Noise]:
        return flow.rows(torch.tensor(rows), count), Noise(seed, rows)

    _, made, times = settled(flow, str(name or getattr(flow, "name", "")), steps, solver, grid)
    return (yield from _drawn(part, count, 1 if isinstance(flow, Pipeline) else count, made, times, reuse))


def _drawn(
    part: Callable[[range], tuple[Flow, Noise]], count: int, size: int, solver: Solver, times: Tensor, reuse: int
) -> Run[Tensor]:
    """Pictures 0 ... count - 1, `size` at a time; `part`: of some of them the flow and the noise."""
    done, total, found = 0, (len(times) - 1) * math.ceil(count / size), []
    for first in range(0, count, size):
        flow, noise = part(range(first, min(first + size, count)))
        x = flow.source(noise).to(device_of(flow))
        for step in solver(_cheaper(flow, reuse), x, times, noise=noise.named("solver")):
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
