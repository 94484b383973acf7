"""`flowhelm plan`: a plan in words, and what its settings really take on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from ... import operators, priors
from ...flow import Flow
from ...memory import STEPS, walk
from ...priors.pipelines import Pipeline
from ..errors import BadInput
from ..options.signature import bind, pick
from .opening import named, size_of
from .plan import GIB, METHODS, TILE, Plan, Task, configured, picture, plan


def probe(
    flow: Flow, found: Plan, device: str, *, operator_options: Mapping[str, Any], options: Mapping[str, Any]
) -> Plan:
    """The plan with what its settings really take: two steps on a CUDA device, its allocator asked for the peak.

    Args:
        flow: with weights, unpacked, bound.
        found: a plan whose settings do not pack weights.

    Raises:
        ValueError: another device, or packed weights.
    """
    if torch.device(device).type != "cuda" or found.settings.quantize != "none":
        raise BadInput(
            "probe: expected a CUDA device and weights that are not packed, got "
            f"{device} and {found.settings.quantize}; on the CPU see python -m flowhelm.bench.pipelines.memory"
        )
    task = Task(
        flow,
        pick("method", found.method, METHODS),
        bind(pick("method", found.method, METHODS), options),
        pick("operator", found.operator, operators.ALL),
        bind(pick("operator", found.operator, operators.ALL), operator_options),
        found.rows,
        found.steps,
    )
    ready, parts = configured(flow, found.settings)
    for each in (module for part in parts.values() for module in part):
        each.to(device)
    torch.cuda.reset_peak_memory_stats(device)
    walk(ready, task.begin(device), min(found.steps, STEPS))
    return replace(found, measured=torch.cuda.max_memory_allocated(device) / GIB)


_ENCODERS = {
    "none": "none",
    "stay": "stay on the GPU",
    "freed": "on the GPU for the prompt, freed before the network is loaded",
    "cpu": "on the CPU",
}


def table(found: Plan) -> Any:
    """For a terminal."""
    from rich.table import Table

    made = Table(box=None, show_header=False)
    made.add_column()
    made.add_column(justify="right")
    made.add_column(overflow="fold")
    for name, size in sorted(found.held.items(), key=lambda pair: -pair[1]):
        made.add_row(name, f"{size:.2f} GiB", "")
    made.add_row(
        "peak", f"{found.peak:.2f} GiB", f"of {found.vram:g} GiB, {found.reserve:g} of them in reserve", style="bold"
    )
    if found.measured is not None:
        made.add_row("measured", f"{found.measured:.2f} GiB", f"foretold / measured {found.peak / found.measured:.3f}")
    made.add_section()
    for name, text in _advice(found):
        made.add_row(name, "", text)
    return made


def _advice(found: Plan) -> Sequence[tuple[str, str]]:
    settings = found.settings
    said = [
        (
            "weights",
            f"{found.dtype}" + ("" if settings.quantize == "none" else f", the network's in {settings.quantize}"),
        ),
        ("text encoders", _ENCODERS[found.encoders]),
    ]
    if settings.checkpointing:
        said.append(
            (
                "checkpointing",
                f"{' and '.join(settings.checkpointing)}: .enable_gradient_checkpointing(), the same result",
            )
        )
    if settings.chunk:
        said.append(
            (
                "rows",
                f"{found.rows}, of which the network sees {settings.chunk} at a time (guide.chunked): the same result",
            )
        )
    if settings.tiling:
        said.append(
            (
                "decoder",
                f"in tiles of {TILE} pixels, in every step the same: this is another function than without, look at the seams",
            )
        )
    return said


def run(
    model: str,
    method: str,
    *,
    vram: float,
    size: str | None,
    operator: str,
    operator_options: Mapping[str, Any],
    options: Mapping[str, Any],
    rows: int,
    steps: int,
    quantize: str | None,
    dtype: str,
    words: int | None,
    reserve: float,
    as_json: bool,
    device: str | None,
) -> None:
    """The command."""
    kind, sides = named(dtype), None if size is None else size_of(size)
    planned = partial(
        plan, method=method, vram=vram, size=sides, operator=operator, operator_options=operator_options, options=options,
        rows=rows, steps=steps, quantize=quantize, dtype=kind, words=words, reserve=reserve,
    )  # fmt: skip
    found = planned(model)
    if device is not None and found.fits:
        loaded = _loaded(model, found, kind)
        found = probe(loaded, found, device, operator_options=operator_options, options=options)
    if as_json:
        print(found.json())
    elif found.fits:
        from rich.console import Console

        print(found.sentence)
        Console(width=None if sys.stdout.isatty() else 120).print(table(found))
    if not found.fits:
        raise BadInput(found.sentence)


def _loaded(model: str, found: Plan, dtype: torch.dtype) -> Flow:
    """With weights, bound to an empty prompt."""
    if model in priors.NAMES or model.endswith(".safetensors"):
        flow: Any = priors.load(model)
        return cast("Flow", flow.sized(*found.size) if tuple(picture(flow)[1:]) != found.size else flow)
    from ...priors.pipelines import load

    return cast("Pipeline", load(model, size=found.size, dtype=dtype)).bind([""])
