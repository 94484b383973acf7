"""Will it fit? What a method needs on a model, found on tensors without data before anything is loaded, and which settings fit.

    found = plan("black-forest-labs/FLUX.2-dev", "mpc_flow", vram=24, size=(512, 512))
    found.fits, found.quantize, found.peak, found.held

A plan tries what leaves the result as it is first: text encoders out of the way, gradient checkpointing, fewer rows at a time; then
packed weights, from gentle to coarse, unless one was asked for; last of all a decoder in tiles, which is another function.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from ... import priors
from ...flow import Flow
from ...memory import STEPS, hollow, walk
from ...priors import bundled, denoisers
from ...priors.pipelines import Pipeline, load, wrap
from ...priors.pipelines.skeleton import skeleton
from ..errors import BadInput
from . import fitting
from .fitting import GIB, Settings, Task
from .request import PlanRequest, check_flow, size_of

RESERVE = 1.0
"""GiB that are not planned with: the driver's own, workspaces of kernels, gaps between blocks. An allowance, not a measurement."""
Where = Literal["none", "stay", "freed", "cpu"]


@dataclass(frozen=True)
class Plan:
    """What `plan` found. Memory in GiB.

    Attributes:
        vram, reserve: what there is, and what of it is left alone.
        settings: those to run with; of a plan that does not fit, the most frugal ones.
        encoders: where the text encoders go: they stay on the GPU, are freed before the network is loaded, or stay on the CPU.
        peak: of the run, with encoders that stay; held: of what it consists; parts: the most while a part is computed.
        weights: by component, packed if the settings say so; text encoders as they are.
        remedies: what would make it fit, each with its peak.
        tried: settings and their peaks.
        measured: by `--probe`, on the device.
    """

    model: str
    method: str
    operator: str
    size: tuple[int, int]
    rows: int
    steps: int
    dtype: str
    vram: float
    reserve: float
    fits: bool
    settings: Settings
    encoders: Where
    peak: float
    held: Mapping[str, float]
    parts: Mapping[str, float]
    weights: Mapping[str, float]
    remedies: tuple[str, ...] = ()
    tried: tuple[tuple[str, float], ...] = ()
    measured: float | None = None

    @property
    def sentence(self) -> str:
        """In one sentence."""
        what = f"{self.method} on {self.model} at {self.size[1]} x {self.size[0]}"
        if self.fits:
            return f"{what} fits: {self.peak:.1f} GiB of {self.vram:.4g}, {self.settings}"
        fitting = "what would fit: " + "; ".join(self.remedies)
        advice = fitting if self.remedies else "nothing that was tried would make it fit"
        apart = f" ({self.peak:.1f} and {self.reserve:g} in reserve)" if self.reserve else ""
        return (
            f"{what} does not fit: it needs {self.peak + self.reserve:.1f} GiB{apart} with {self.settings}, and there are "
            f"{self.vram:.4g} GiB; {advice}"
        )

    def json(self) -> str:
        return json.dumps(asdict(self) | {"sentence": self.sentence}, indent=2)


def plan(
    model: str | Path | Mapping[str, Any] | Flow | Any,
    method: str,
    *,
    vram: float,
    size: tuple[int, int] | None = None,
    operator: str = "superres",
    operator_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    rows: int = 1,
    steps: int = 28,
    quantize: str | None = None,
    settings: Settings | None = None,
    dtype: torch.dtype = torch.bfloat16,
    words: int | None = None,
    scale: float | None = None,
    reserve: float = RESERVE,
    name: str | None = None,
) -> Plan:
    """What fits; see the module.

    Args:
        model: a bundled prior, a .safetensors file of flowhelm, a diffusers pipeline by hub name, folder or configs (see
            `priors.pipelines.skeleton`), a loaded one, or a flow.
        method: of `flowhelm methods`, or "sample".
        vram: GiB of the device.
        size: of the pictures, (height, width); None for the model's own.
        operator, operator_options, options: as `restore` takes them.
        rows: pictures or particles at a time.
        quantize: the scheme of the network's weights; None for the gentlest that fits.
        settings: those of a run as `flowhelm.load` opens its model, with the text encoders on the CPU, to find out whether it fits; None to
            choose.
        dtype: of weights that are not packed, where only configs are given.
        words: tokens of the prompt; None for as many as the pipeline pads to.
        scale: of guidance; None for the family's own. A second prompt doubles the rows that its network sees.
        reserve: GiB that are left alone.
        name: of the model, in words.

    Raises:
        ValueError: a name that there is none of, or options that do not fit.
    """
    if not reserve < vram < math.inf or rows < 1 or steps < 1:
        raise BadInput(
            f"plan: expected vram above the reserve of {reserve:g} GiB, and at least 1 row and 1 step, got {vram:g}, {rows}, {steps}"
        )
    flow, others = _model(model, size, dtype)
    task = Task.of(flow, method, options or {}, operator, operator_options or {}, rows, steps, words, scale)
    budget = (vram - reserve) * GIB
    schemes = (quantize,) if quantize else fitting.worthwhile(flow)
    aside = sum(map(fitting.size_in_bytes, others.values()))
    where: Where
    if settings is None:
        chosen = fitting.first(task, budget, schemes)
        fits = chosen is not None
        settings = chosen or fitting.without_needless(task, fitting.frugal(task, schemes[-1]))
        found = task.footprint(settings)
        where, peak = _placed(found.peak, aside, budget)
        stay = aside if where == "stay" else 0
        advice = () if fits else fitting.remedies(task, budget, schemes[-1], quantize is not None, reserve)
    else:
        stay = sum(fitting.size_in_bytes(each) for name, each in others.items() if not name.startswith("text_encoder"))
        found = task.footprint(settings)
        where, peak = "cpu" if aside else "none", found.peak + stay
        fits = peak <= budget
        advice = () if fits else fitting.changes(task, budget - stay, settings, schemes, reserve)
    held = {**found.held, **({"text encoders weights": stay} if stay else {})}
    shape = fitting.picture(flow)
    weights = (weight for module in fitting.modules_of(flow)["network"] for weight in module.parameters())
    kind = str(next((weight.dtype for weight in weights), torch.float32)).removeprefix("torch.")
    return Plan(
        model=name or (str(model) if isinstance(model, (str, Path)) else _name(flow, model)), method=method, operator=operator,
        size=(shape[-2], shape[-1]), rows=rows, steps=steps, dtype=kind, vram=vram, reserve=reserve, fits=fits, settings=settings,
        encoders=where, peak=peak / GIB, held=_gib(held), parts=_gib(found.parts),
        weights=_gib({**found.weights, **({"text encoders": aside} if aside else {})}), remedies=tuple(advice),
        tried=tuple((str(each), one.peak / GIB) for each, one in task.known.items()),
    )  # fmt: skip


def planned(request: PlanRequest) -> Plan:
    """What fits; with `probe` also what its settings really take: two steps on a CUDA device, its allocator asked for the peak.

    Raises:
        BadInput: a probe on another device, or of packed weights.
    """
    kind = getattr(torch, request.dtype)
    found = plan(
        request.model, request.method, vram=request.vram, size=size_of(request.size),
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
    ready, parts = fitting.configured(flow, found.settings)
    for each in (module for part in parts.values() for module in part):
        each.to(device)
    torch.cuda.reset_peak_memory_stats(device)
    walk(ready, task.begin(request.probe), min(found.steps, STEPS))
    return replace(found, measured=torch.cuda.max_memory_allocated(device) / GIB)


def _model(model: Any, size: tuple[int, int] | None, dtype: torch.dtype) -> tuple[Flow, dict[str, nn.Module]]:
    """The flow without data and without text encoders, and these by name."""
    flow = _flow(model, size, dtype)
    if not isinstance(flow, Pipeline):
        return hollow(flow), {}
    known = {id(each) for each in (*flow.nets, flow.pipe.vae)}
    components: Mapping[str, Any] = flow.pipe.components
    others = {name: each for name, each in components.items() if isinstance(each, nn.Module) and id(each) not in known}
    return hollow(flow, without=list(others.values())), others


def _flow(model: Any, size: tuple[int, int] | None, dtype: torch.dtype) -> Flow:
    if isinstance(model, (str, Path)) and denoisers.named(model):
        model = bundled.pretrained(str(model), random=True)  # a plan needs no weights
    if isinstance(model, (str, Path)) and (str(model) in priors.NAMES or str(model).endswith(".safetensors")):
        check_flow(str(model))
        model = priors.load(str(model))
    if isinstance(model, (str, Path, Mapping)):
        return skeleton(model, size=size, dtype=dtype)
    if not isinstance(model, Flow):
        return wrap(model, size=size, freeze=False)
    if size is None:
        return model
    resize: Any = getattr(model, "sized", None)
    if resize is None:
        raise BadInput(f"plan: {type(model).__name__} has one size, {fitting.picture(model)[1:]}; leave size away")
    return cast("Flow", resize(*size))


def _placed(peak: int, aside: int, budget: float) -> tuple[Where, int]:
    """Where the text encoders go, and the peak with them. Half a GiB is left to what they compute, where they are alone."""
    if not aside:
        return "none", peak
    if peak + aside <= budget:
        return "stay", peak + aside
    return ("freed", peak) if aside + GIB // 2 <= budget else ("cpu", peak)


def _name(flow: Flow, model: Any) -> str:
    return str(model.get("_class_name")) if isinstance(model, Mapping) else getattr(flow, "name", type(flow).__name__)


def _gib(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / GIB for name, size in sizes.items()}


def _loaded(model: str, found: Plan, dtype: torch.dtype) -> Flow:
    """With weights, bound to an empty prompt."""
    if model in priors.NAMES or model.endswith(".safetensors") or denoisers.named(model):
        flow: Any = priors.load(model)
        return cast("Flow", flow.sized(*found.size) if tuple(fitting.picture(flow)[1:]) != found.size else flow)
    return load(model, size=found.size, dtype=dtype).bind([""])
