"""Drawing from a program: what `flowhelm sample` draws, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...flow import Flow
from ...priors.bundled import Prior, kind
from ...priors.tarflow import Normalising
from ...solve import Solver
from ...transition import Transition
from ..errors import BadInput
from ..models import opening as models
from ..models.request import check_flow
from ..options.request import called_with
from ..run import Event, Stepped, drive
from . import bijections
from .request import Drawing
from .rows import draw_flow, jobs_of
from .run import pictures, pictures_of
from .solvers import Way


@called_with(Drawing)
def generate(
    prior: str | Path | Flow | Normalising,
    *,
    solver: str | Solver | Transition = "auto",
    watch: Callable[[int], object] | None = None,
    **options: Any,
) -> Tensor:
    """Pictures `(count, c, h, w)` float32 on the CPU, nominally in [-1, 1], not clamped: those of `flowhelm sample`, to the bit.
    flowhelm's own.

        flowhelm.generate("fashion", classes=["coat", "bag"], count=8)
        flowhelm.generate("stabilityai/stable-diffusion-3.5-medium", prompt="a lighthouse", device="cuda")
        flowhelm.generate(flow, steps=10, solver="unipc:order=3")

    Picture number i of a seed is the same however many are drawn (but for the last bits, which may depend on the size of a batch).
    The options are those of `flowhelm sample`, and `Drawing` describes them: steps, seed, classes, prompt, numbers, scale, guidance, ...

    Args:
        prior: a bundled prior by name, a .safetensors file that `flowhelm train` wrote, a pipeline of diffusers (a folder or
            org/name), or any `Flow` that is open already; what is bound to its rows stays.
        solver: auto, a name with or without options ("unipc", "dpm:order=3"), any of `flowhelm.sample`, or any transition.
        options: count (default 1) is of each class if there are classes: `(classes * count, c, h, w)`, class by class; size is
            (height, width) of a pipeline's pictures, default its own.
        watch: called with the steps done, of all batches together; what it raises ends the run.

    Raises:
        ValueError: anything that is wrong with what was asked for.
    """
    move = solver if callable(solver) else None
    given = {
        "prior": "" if isinstance(prior, (Flow, Normalising)) else str(prior),
        **({} if move else {"solver": solver}),
        **options,
    }
    request = Drawing.of({name: value for name, value in given.items() if value is not None}, "generate")
    if request.threads:
        torch.set_num_threads(request.threads)

    def each(event: Event) -> None:
        if watch is not None and isinstance(event, Stepped):
            watch(event.index)

    # weights made in inference mode could never be differentiated through
    with torch.inference_mode(False), torch.no_grad():
        flow = bijections.loaded(request) if kind(request.prior or "-") == "tarflow" else prior
        if isinstance(flow, Normalising):
            jobs = jobs_of(request.classes, request.count or 1)
            return drive(bijections.draw_bijection(flow, jobs, **bijections.how(request)), each)
        if isinstance(prior, Flow):
            check_flow(getattr(prior, "name", "") or "this prior", prior.prior_kind, tokens=True)
        else:
            if models.is_pipeline(request.prior) and (request.classes or request.numbers):
                raise BadInput("generate: classes and numbers are for bundled priors; say it in the prompt")
            return drive(pictures(request, move), each).pictures
        if isinstance(prior, Prior) and not prior.condition:
            return drive(pictures_of(prior, request, move), each).pictures
        own = {"prior", "count", "steps", "seed", "solver", "grid", "reuse", "device", "threads"}
        if request.model_dump(exclude_defaults=True, exclude=own):
            raise BadInput(
                "generate: bind the conditions of an open flow by its own `bind` or `told`; give only count, "
                "steps, seed, solver, grid and reuse"
            )
        return drive(draw_flow(prior, request.count or 1, Way.of(request, move)), each)
