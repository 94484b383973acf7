"""`flowhelm plan`: a plan for a request, and what its settings really take on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from ... import priors
from ...flow import Flow
from ...memory import STEPS, walk
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from .fitting import GIB, Task, configured, picture
from .opening import named, size_of
from .plan import Plan, plan
from .request import PlanRequest


def planned(request: PlanRequest) -> Plan:
    """What fits; with `probe` also what its settings really take: two steps on a CUDA device, its allocator asked for the peak.

    Raises:
        BadInput: a probe on another device, or of packed weights.
    """
    kind = named(request.dtype)
    found = plan(
        request.model, request.method, vram=request.vram, size=None if request.size is None else size_of(request.size),
        operator=request.operator, operator_options=request.operator_options, options=request.method_options,
        rows=request.particles, steps=request.steps, quantize=request.quantize, dtype=kind, words=request.tokens,
        reserve=request.reserve,
    )  # fmt: skip
    if request.probe is None or not found.fits:
        return found
    device = torch.device(request.probe)
    if device.type != "cuda" or found.settings.quantize != "none":
        raise BadInput(
            "probe: expected a CUDA device and weights that are not packed, got "
            f"{device} and {found.settings.quantize}; on the CPU see python -m flowhelm.bench.pipelines.memory"
        )
    flow = _loaded(request.model, found, kind)
    task = Task.of(
        flow, found.method, request.method_options, found.operator, request.operator_options, found.rows, found.steps
    )
    ready, parts = configured(flow, found.settings)
    for each in (module for part in parts.values() for module in part):
        each.to(device)
    torch.cuda.reset_peak_memory_stats(device)
    walk(ready, task.begin(request.probe), min(found.steps, STEPS))
    return replace(found, measured=torch.cuda.max_memory_allocated(device) / GIB)


def _loaded(model: str, found: Plan, dtype: torch.dtype) -> Flow:
    """With weights, bound to an empty prompt."""
    if model in priors.NAMES or model.endswith(".safetensors"):
        flow: Any = priors.load(model)
        return cast("Flow", flow.sized(*found.size) if tuple(picture(flow)[1:]) != found.size else flow)
    from ...priors.pipelines import load

    return cast("Pipeline", load(model, size=found.size, dtype=dtype)).bind([""])
