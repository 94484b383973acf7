"""Will it fit? What a method needs on a model, found on tensors without data before anything is loaded, and which settings fit.

    found = plan("black-forest-labs/FLUX.2-dev", "mpc_flow", vram=24, size=(512, 512))
    found.fits, found.quantize, found.peak, found.held

A plan tries what leaves the result as it is first: text encoders out of the way, gradient checkpointing, fewer rows at a time; then
packed weights, from gentle to coarse, unless one was asked for; last of all a decoder in tiles, which is another function.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ... import guide, operators, priors, restore, steer
from ...flow import Flow
from ...measure import Measurement
from ...memory import Footprint, footprint, hollow, modules
from ...priors.pipelines import Pipeline, wrap
from ...priors.pipelines.skeleton import skeleton, wordless
from ...priors.quantised import GENTLE, quantised
from ...rng import Noise
from ...solve import integrate
from ...step import Step
from ..errors import BadInput
from ..options.signature import bind, pick

GIB = 2**30
RESERVE = 1.0
"""GiB that are not planned with: the driver's own, workspaces of kernels, gaps between blocks. An allowance, not a measurement."""
TILE = 256
"""Pixels of a side of the decoder's tiles."""
OTHERS = ("mpc_flow", "flow_dps")
"""Methods that do not differentiate the network."""


def sample(flow: Flow, y: Measurement, x: Tensor, times: Tensor, *, noise: Noise | None = None) -> Iterable[Step]:
    """Draws from the prior; nothing is measured."""
    return integrate(flow, x, times, noise=noise)


METHODS: tuple[Callable[..., Any], ...] = (sample, *steer.ALL, *restore.ALL)


@dataclass(frozen=True)
class Settings:
    """What a plan chooses.

    Attributes:
        quantize: "none", or a scheme of `priors.quantised`.
        checkpointing: of "network" and "decoder", those whose activations are computed anew in the backward pass.
        chunk: rows that the network sees at a time; None for all.
        tiling: the decoder works in tiles.
    """

    quantize: str = "none"
    checkpointing: tuple[str, ...] = ()
    chunk: int | None = None
    tiling: bool = False

    def __str__(self) -> str:
        said = [
            "weights as they are" if self.quantize == "none" else f"weights in {self.quantize}",
            *(f"checkpointing of the {part}" for part in self.checkpointing),
            *([f"{self.chunk} rows at a time"] if self.chunk else []),
            *(["decoder in tiles"] if self.tiling else []),
        ]
        return ", ".join(said)


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
        if not self.remedies:
            advice = "nothing that was tried would make it fit"
        else:
            advice = "what would fit: " + "; ".join(self.remedies)
        apart = f" ({self.peak:.1f} and {self.reserve:g} in reserve)" if self.reserve else ""
        return (
            f"{what} does not fit: it needs {self.peak + self.reserve:.1f} GiB{apart} with {self.settings}, and there are "
            f"{self.vram:.4g} GiB; {advice}"
        )

    def json(self) -> str:
        return json.dumps(asdict(self) | {"sentence": self.sentence}, indent=2)


@dataclass(frozen=True)
class Task:
    """What is planned: everything but the settings."""

    flow: Flow  # without data, without text encoders; a pipeline that is not bound is told of no text
    method: Callable[..., Any]
    options: Mapping[str, Any]
    operator: Callable[..., Any]
    operator_options: Mapping[str, Any]
    rows: int
    steps: int
    words: int | None = None
    scale: float | None = None
    known: dict[Settings, Footprint] = field(default_factory=dict)

    def footprint(self, settings: Settings) -> Footprint:
        if settings not in self.known:
            flow = hollow(self.flow)
            if isinstance(flow, Pipeline) and not flow.told:
                flow = wordless(flow, self.words, self.scale)
            flow, parts = configured(flow, settings)
            self.known[settings] = footprint(flow, self.begin("meta"), parts, steps=self.steps)
        return self.known[settings]

    def begin(self, device: str) -> Callable[[Flow, int], Iterator[Step]]:
        def start(flow: Flow, steps: int) -> Iterator[Step]:
            shape = picture(flow)
            physics: Any = self.operator(shape, **self.operator_options).to(device)
            with torch.no_grad():
                y = physics.A(torch.zeros(1, *shape, device=device))
            x = torch.ones(self.rows, *flow.shape, device=device)
            noise = Noise(0, self.rows)
            return cast(
                "Iterator[Step]",
                self.method(flow, Measurement(y, physics, 0.05), x, flow.times(steps), noise=noise, **self.options),
            )

        return start


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
    task = Task(
        flow,
        pick("method", method, METHODS),
        bind(pick("method", method, METHODS), options or {}),
        pick("operator", operator, operators.ALL),
        bind(pick("operator", operator, operators.ALL), operator_options or {}),
        rows,
        steps,
        words,
        scale,
    )
    budget = (vram - reserve) * GIB
    schemes = (quantize,) if quantize else _worthwhile(flow)
    aside = sum(map(_bytes, others.values()))
    where: Where
    if settings is None:
        chosen = _first(task, budget, schemes)
        fits = chosen is not None
        settings = chosen or _said(task, _frugal(task, schemes[-1]))
        found = task.footprint(settings)
        where, peak = _placed(found.peak, aside, budget)
        stay = aside if where == "stay" else 0
        remedies = () if fits else _remedies(task, budget, schemes[-1], quantize is not None, reserve)
    else:
        stay = sum(_bytes(each) for name, each in others.items() if not name.startswith("text_encoder"))
        found = task.footprint(settings)
        where, peak = "cpu" if aside else "none", found.peak + stay
        fits = peak <= budget
        remedies = () if fits else _changes(task, budget - stay, settings, schemes, reserve)
    held = {**found.held, **({"text encoders weights": stay} if stay else {})}
    shape = picture(flow)
    return Plan(
        model=name or (str(model) if isinstance(model, (str, Path)) else _name(flow, model)),
        method=method,
        operator=operator,
        size=(shape[-2], shape[-1]),
        rows=rows,
        steps=steps,
        dtype=str(next((p.dtype for m in modules_of(flow)["network"] for p in m.parameters()), torch.float32))[6:],
        vram=vram,
        reserve=reserve,
        fits=fits,
        settings=settings,
        encoders=where,
        peak=peak / GIB,
        held=_gib(held),
        parts=_gib(found.parts),
        weights=_gib({**found.weights, **({"text encoders": aside} if aside else {})}),
        remedies=tuple(remedies),
        tried=tuple((str(each), one.peak / GIB) for each, one in task.known.items()),
    )


def _first(task: Task, budget: float, schemes: Iterable[str]) -> Settings | None:
    """The first settings that fit, in the order in which they change the result."""
    for tiling in (False, True) if _tileable(task.flow) else (False,):
        for scheme in schemes:
            if _packed(task.flow, scheme) > budget:
                continue
            plain = Settings(scheme, tiling=tiling)
            if task.footprint(plain).peak <= budget:
                return plain
            frugal = replace(_frugal(task, scheme), tiling=tiling)
            if task.footprint(frugal).peak > budget:
                continue
            able = tuple(part for part in frugal.checkpointing if task.footprint(plain).differentiates(part))
            for kind in dict.fromkeys([(), *((part,) for part in reversed(able)), able]):
                for chunk in (None, *_chunks(task.rows)):
                    settings = replace(plain, checkpointing=kind, chunk=chunk)
                    if task.footprint(settings).peak <= budget:
                        return settings
    return None


def _worthwhile(flow: Flow) -> tuple[str, ...]:
    """Of the gentle schemes those that make the weights smaller by a tenth: networks of convolutions have little to pack."""
    whole = _packed(flow, "none")
    return tuple(each for each in GENTLE if each == "none" or _packed(flow, each) < 0.9 * whole)


def _chunks(rows: int) -> list[int]:
    """Powers of 2 below the rows, from above."""
    return [n for n in (2**k for k in reversed(range(rows.bit_length()))) if n < rows]


def _frugal(task: Task, scheme: str) -> Settings:
    """What takes the least without another function."""
    able = tuple(part for part in ("network", "decoder") if _checkpointable(task.flow, part))
    return Settings(scheme, able, 1 if task.rows > 1 else None)


def _said(task: Task, settings: Settings) -> Settings:
    """The settings without checkpointing of what is not differentiated."""
    found = task.footprint(settings)
    said = replace(settings, checkpointing=tuple(part for part in settings.checkpointing if found.differentiates(part)))
    task.known.setdefault(said, found)
    return said


def _changes(task: Task, budget: float, given: Settings, schemes: Sequence[str], reserve: float) -> Iterator[str]:
    """What would make a run fit: options of it, or less to do."""
    coarser = schemes[schemes.index(given.quantize) :] if given.quantize in schemes else (given.quantize,)
    found = _first(task, budget, coarser)
    if found is None:
        yield from _remedies(task, budget, coarser[-1], False, reserve, "a picture of")
        return
    options = [
        *([f"--quantize {found.quantize}"] if found.quantize != given.quantize else []),
        *(["--checkpointing"] if found.checkpointing and not given.checkpointing else []),
        *(["--tiling"] if found.tiling and not given.tiling else []),
    ]
    yield f"{' '.join(options) or 'other settings'} ({task.footprint(found).peak / GIB + reserve:.1f} GiB)"


def _remedies(
    task: Task, budget: float, scheme: str, asked: bool, reserve: float, size: str = "--size"
) -> Iterator[str]:
    """What would make it fit."""

    def needs(found: Footprint) -> str:
        return f"({found.peak / GIB + reserve:.1f} GiB)"

    for other in ("int8", "nf4", "nf4-double"):
        if asked and _packed(task.flow, other) < min(_packed(task.flow, scheme), budget):
            found = task.footprint(_frugal(task, other))
            if found.peak <= budget:
                yield f"--quantize {other} {needs(found)}"
                break
    if _packed(task.flow, scheme) > budget:
        return  # nothing else makes the weights smaller
    if task.footprint(_frugal(task, scheme)).differentiates("network"):
        for name in OTHERS:
            other_task = replace(task, method=pick("method", name, METHODS), options={}, known={})
            found = other_task.footprint(_frugal(other_task, scheme))
            if found.peak <= budget:
                yield f"the method {name}, which does not differentiate the network {needs(found)}"
                break
    if task.rows > 1:
        single = replace(task, rows=1, known={})
        found = single.footprint(_frugal(single, scheme))
        if found.peak <= budget:
            yield f"one row at a time {needs(found)}"
    smaller = _smaller(task, scheme, budget)
    if smaller is not None:
        yield f"{size} {smaller[0][1]}x{smaller[0][0]} {needs(smaller[1])}"


def _smaller(task: Task, scheme: str, budget: float) -> tuple[tuple[int, int], Footprint] | None:
    """The largest of a half, a quarter, an eighth of the sides that fits."""
    sized: Any = getattr(task.flow, "sized", None)
    _, height, width = picture(task.flow)
    multiple = getattr(task.flow, "multiple", 16)
    for factor in (2, 4, 8):
        size = tuple(max(side // factor // multiple, 1) * multiple for side in (height, width))
        if sized is None or min(size) < 64:
            return None
        try:
            less = replace(task, flow=sized(*size), known={})
            found = less.footprint(_frugal(less, scheme))
        except ValueError:  # not every operator, and not every network, takes any size
            continue
        if found.peak <= budget:
            return (size[0], size[1]), found
    return None


def configured(flow: Flow, settings: Settings) -> tuple[Flow, dict[str, list[nn.Module]]]:
    """The flow with its settings applied to its modules, which are changed; and these modules by name."""
    parts = modules_of(flow)
    for module in parts["network"]:
        quantised(module, settings.quantize)
    for name in settings.checkpointing:
        for module in parts[name]:
            cast("Any", module).enable_gradient_checkpointing()
    if settings.tiling:
        for module in parts["decoder"]:
            tiled(module)
    return flow if settings.chunk is None else guide.chunked(flow, settings.chunk), parts


def tiled(vae: Any) -> None:
    """Lets a diffusers autoencoder work in tiles of `TILE` pixels, blended; which is not the function that it was trained as."""
    vae.enable_tiling()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // factor


def modules_of(flow: Flow) -> dict[str, list[nn.Module]]:
    """The modules of a flow that must be on the device, "network" and "decoder"."""
    if isinstance(flow, Pipeline):
        return {"network": list(flow.nets), "decoder": [flow.pipe.vae]}
    decoder = modules(getattr(flow, "codec", None))
    return {"network": [each for each in modules(flow) if not any(each is d for d in decoder)], "decoder": decoder}


def picture(flow: Flow) -> tuple[int, int, int]:
    """(channels, height, width) of one picture."""
    if isinstance(flow, Pipeline):
        return (3, *flow.size)
    if flow.pixels:
        return cast("tuple[int, int, int]", tuple(flow.shape))
    with torch.no_grad():
        return cast("tuple[int, int, int]", tuple(flow.decode(torch.empty(1, *flow.shape, device="meta")).shape[1:]))


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
    if isinstance(model, (str, Path)) and (str(model) in priors.NAMES or str(model).endswith(".safetensors")):
        model = priors.load(str(model))
    if isinstance(model, (str, Path, Mapping)):
        return skeleton(model, size=size, dtype=dtype)
    if not isinstance(model, Flow):
        return wrap(model, size=size, freeze=False)
    if size is None:
        return model
    resize: Any = getattr(model, "sized", None)
    if resize is None:
        raise BadInput(f"plan: {type(model).__name__} has one size, {picture(model)[1:]}; leave size away")
    return cast("Flow", resize(*size))


def _placed(peak: int, aside: int, budget: float) -> tuple[Where, int]:
    """Where the text encoders go, and the peak with them. Half a GiB is left to what they compute, where they are alone."""
    if not aside:
        return "none", peak
    if peak + aside <= budget:
        return "stay", peak + aside
    return ("freed", peak) if aside + GIB // 2 <= budget else ("cpu", peak)


def _packed(flow: Flow, scheme: str) -> int:
    """Bytes of all weights."""
    return sum(_bytes(each) for part in configured(hollow(flow), Settings(scheme))[1].values() for each in part)


def _bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))


def _checkpointable(flow: Flow, part: str) -> bool:
    return bool(modules_of(flow)[part]) and all(
        getattr(each, "_supports_gradient_checkpointing", False) for each in modules_of(flow)[part]
    )


def _tileable(flow: Flow) -> bool:
    decoders = modules_of(flow)["decoder"]
    return (
        bool(decoders)
        and all(hasattr(each, "tile_latent_min_size") for each in decoders)
        and max(picture(flow)[1:]) > TILE
    )


def _name(flow: Flow, model: Any) -> str:
    return str(model.get("_class_name")) if isinstance(model, Mapping) else getattr(flow, "name", type(flow).__name__)


def _gib(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / GIB for name, size in sizes.items()}
