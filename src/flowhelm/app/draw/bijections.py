"""Pictures drawn from a normalising flow: the noise of `flowhelm sample`, one of the inverses, and the training's noise taken out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ... import bijection, inverse
from ...priors import tarflow
from ...priors.tarflow import Normalising
from ...rng import Noise
from ...step import run
from ..errors import BadInput
from ..models import device as devices
from ..run import Planned, Run, Stepped
from .request import Drawing, DrawRequest
from .rows import Job, device_of

TOKENS = 2**16
"""Tokens of a batch, guidance's second half included."""
OF_FLOWS = ("solver", "grid", "steps", "reuse", "prompt", "numbers", "guidance", "size")
"""What is said of a flow in time, or of a pipeline."""
TOLERANCE = 1e-4
"""Root mean square change of a token at which Jacobi's sweeps end: far below what a picture of 8 bits shows."""


@torch.no_grad()
def draw_bijection(
    flow: Normalising, jobs: Sequence[Job], *, seed: int = 0, scale: float | None = None, way: str | None = None, clean: bool = True
) -> Run[Tensor]:  # fmt: skip
    """One picture or video per job: `(len(jobs), *flow.shape)`, nominally in [-1, 1], not clamped, on the CPU.

    Args:
        scale: of guidance; None for the prior's own, 1 for none. clean: Tweedie's step at the end.
        way: sequential, jacobi, gs-jacobi or starflow-v; None: sequential, of videos starflow-v.
    """
    labels = [label for label, _ in jobs if label is not None]
    scale = flow.about.get("scale", 1.0) if scale is None else scale
    rule = partial(bijection.linear, scale=scale) if labels and scale != 1 else None
    frames = flow.net.frames
    if way == "starflow-v" and not frames:
        raise BadInput(f"--inverse starflow-v is for flows over videos; {flow.name!r} draws pictures: leave it out")
    methods: dict[str, Any] = {
        "sequential": inverse.sequential,
        "jacobi": partial(inverse.jacobi, tolerance=TOLERANCE, plan=flow.plan),
        "gs-jacobi": partial(inverse.gs_jacobi, tolerance=TOLERANCE, plan=flow.plan),
        "starflow-v": partial(inverse.starflow_v, tolerance=TOLERANCE),
    }
    method = methods[way or ("starflow-v" if frames else "sequential")]
    tokens = flow.source(Noise(0, 1)).shape[1]
    size = max(1, min(len(jobs), TOKENS // (tokens * (1 if rule is None else 2))))
    steps, parts = frames if method is methods["starflow-v"] else len(flow.blocks), []
    total, what = steps * math.ceil(len(jobs) / size), "video" if frames else "picture"
    yield Planned(total)
    for first in range(0, len(jobs), size):
        rows = jobs[first : first + size]
        told = flow.told([label for label, _ in rows if label is not None], rule=rule) if labels else flow
        z, done = flow.source(Noise(seed, [index for _, index in rows])).to(device_of(flow)), first // size * steps
        for step in method(told, z):
            image = run([step]).clean  # which is checked: Diverged if it is not finite
            yield Stepped(done + step.index, total, f"{len(jobs)} {what}{'s' * (len(jobs) > 1)}")
        parts.append((told.cleaned(image) if clean else image).cpu())
    return torch.cat(parts)


def loaded(request: Drawing) -> Normalising:
    """The prior of a request. Raises BadInput for options that are of flows in time."""
    for name in OF_FLOWS:
        if name in request.model_fields_set and getattr(request, name) not in (None, "auto"):
            raise BadInput(
                f"--{name} is for flows in time and pipelines; {request.prior!r} is a normalising flow: leave it out"
            )
    if getattr(request, "adapter", None) is not None:
        raise BadInput(f"--adapter is for flows in time; {request.prior!r} is a normalising flow: leave it out")
    return tarflow.load(request.prior, str(devices.to_device(request.device)))


def how(request: Drawing | DrawRequest) -> dict[str, Any]:
    """Of a request: what `draw_bijection` takes."""
    return {
        "seed": request.seed, "scale": request.scale, "way": request.inverse, "clean": request.cleanup,
    }  # fmt: skip
