"""The search for the settings that fit: what leaves the result as it is comes first, then packed weights, last a decoder in tiles."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ... import guide, operators, restore, steer, tune
from ...flow import Flow
from ...measure import Measurement
from ...memory import Footprint, footprint, hollow, modules
from ...priors.pipelines import Pipeline
from ...priors.pipelines.skeleton import wordless
from ...priors.quantised import GENTLE, quantised
from ...rng import Noise
from ...solve import integrate
from ...step import Step
from ..options.signature import bind, pick
from . import tuned

GIB = 2**30
TILE = 256
"""Pixels of a side of the decoder's tiles."""
OTHERS = ("mpc_flow", "flow_dps")
"""Methods that do not differentiate the network."""


def sample(flow: Flow, y: Measurement, x: Tensor, times: Tensor, *, noise: Noise | None = None) -> Iterable[Step]:
    """Draws from the prior; nothing is measured."""
    return integrate(flow, x, times, noise=noise)


METHODS: tuple[Callable[..., Any], ...] = (sample, *steer.ALL, *restore.ALL, *tune.ALL)


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
            f"{self.chunk} rows at a time" if self.chunk else "",
            "decoder in tiles" if self.tiling else "",
        ]
        return ", ".join(filter(None, said))


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
    known: dict[Settings, Footprint] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        flow: Flow,
        method: str,
        options: Mapping[str, Any],
        operator: str,
        operator_options: Mapping[str, Any],
        rows: int,
        steps: int,
        words: int | None = None,
        scale: float | None = None,
    ) -> Task:
        """By the names of method, operator and options. Raises BadInput."""
        run, made = pick("method", method, METHODS), pick("operator", operator, operators.ALL)
        values = bind(run, options), bind(made, operator_options)
        return cls(flow, run, values[0], made, values[1], rows, steps, words, scale)

    @property
    def tunes(self) -> bool:
        """Whether it trains an adapter, which sees all rows of an update at once."""
        return self.method in tune.ALL

    @property
    def ahead(self) -> int | None:
        """Steps that the method plans at once, of its own grid; None where it has no horizon, or that of the whole grid."""
        known = inspect.signature(self.method).parameters.get("horizon")
        ahead: int | None = self.options.get("horizon", None if known is None else known.default)
        return ahead

    def footprint(self, settings: Settings) -> Footprint:
        if settings not in self.known:
            flow = hollow(self.flow)
            if isinstance(flow, Pipeline) and not flow.told:
                flow = wordless(flow, self.words, self.scale)
            flow, parts = configured(flow, settings)
            self.known[settings] = footprint(flow, self.begin("meta"), parts, steps=self.steps, ahead=self.ahead)
        return self.known[settings]

    def begin(self, device: str) -> Callable[[Flow, int], Iterator[Step]]:
        def start(flow: Flow, steps: int) -> Iterator[Step]:
            if self.tunes:
                return tuned.begun(self.method, self.options, flow, self.rows, steps, device)
            shape = picture(flow)
            physics: Any = operators.built(self.operator, shape, self.operator_options, device)
            with torch.no_grad():
                y = physics.A(torch.zeros(1, *shape, device=device))
            x = torch.ones(self.rows, *flow.shape, device=device)
            y, noise = Measurement(y, physics, 0.05), Noise(0, self.rows)
            made: Iterator[Step] = self.method(flow, y, x, flow.times(steps), noise=noise, **self.options)
            return made

        return start


def first(task: Task, budget: float, schemes: Iterable[str]) -> Settings | None:
    """The first settings that fit, in the order in which they change the result."""
    for tiling in (False, True) if _tileable(task.flow) else (False,):
        for scheme in schemes:
            if packed(task.flow, scheme) > budget:
                continue
            plain = Settings(scheme, tiling=tiling)
            if task.footprint(plain).peak <= budget:
                return plain
            least = replace(frugal(task, scheme), tiling=tiling)
            if task.footprint(least).peak > budget:
                continue
            able = tuple(part for part in least.checkpointing if task.footprint(plain).differentiates(part))
            for kind in dict.fromkeys([(), *((part,) for part in reversed(able)), able]):
                for chunk in (None, *(() if task.tunes else _chunks(task.rows))):
                    settings = replace(plain, checkpointing=kind, chunk=chunk)
                    if task.footprint(settings).peak <= budget:
                        return settings
    return None


def worthwhile(flow: Flow) -> tuple[str, ...]:
    """Of the gentle schemes those that make the weights smaller by a tenth: networks of convolutions have little to pack."""
    whole = packed(flow, "none")
    return tuple(each for each in GENTLE if each == "none" or packed(flow, each) < 0.9 * whole)


def _chunks(rows: int) -> list[int]:
    """Powers of 2 below the rows, from above."""
    return [n for n in (2**k for k in reversed(range(rows.bit_length()))) if n < rows]


def frugal(task: Task, scheme: str) -> Settings:
    """What takes the least without another function."""
    able = tuple(part for part in ("network", "decoder") if _checkpointable(task.flow, part))
    return Settings(scheme, able, 1 if task.rows > 1 and not task.tunes else None)


def without_needless(task: Task, settings: Settings) -> Settings:
    """The settings without checkpointing of what is not differentiated."""
    found = task.footprint(settings)
    said = replace(settings, checkpointing=tuple(part for part in settings.checkpointing if found.differentiates(part)))
    task.known.setdefault(said, found)
    return said


def changes(task: Task, budget: float, given: Settings, schemes: Sequence[str], reserve: float) -> Iterator[str]:
    """What would make a run fit: options of it, or less to do."""
    coarser = schemes[schemes.index(given.quantize) :] if given.quantize in schemes else (given.quantize,)
    found = first(task, budget, coarser)
    if found is None:
        yield from remedies(task, budget, coarser[-1], False, reserve, "a picture of")
        return
    options = (
        f"--quantize {found.quantize}" if found.quantize != given.quantize else "",
        "--checkpointing" if found.checkpointing and not given.checkpointing else "",
        "--tiling" if found.tiling and not given.tiling else "",
    )
    yield f"{' '.join(filter(None, options)) or 'other settings'} ({task.footprint(found).peak / GIB + reserve:.1f} GiB)"


def remedies(
    task: Task, budget: float, scheme: str, asked: bool, reserve: float, size: str = "--size"
) -> Iterator[str]:
    """What would make it fit."""

    def needs(other: Task, scheme: str) -> str:
        """Nothing if it does not fit."""
        peak = other.footprint(frugal(other, scheme)).peak
        return f"({peak / GIB + reserve:.1f} GiB)" if peak <= budget else ""

    for other in ("int8", "nf4", "nf4-double"):
        lighter = asked and packed(task.flow, other) < min(packed(task.flow, scheme), budget)
        if lighter and (memory := needs(task, other)):
            yield f"--quantize {other} {memory}"
            break
    if packed(task.flow, scheme) > budget:
        return  # nothing else makes the weights smaller
    if "recompute" in inspect.signature(task.method).parameters and "recompute" not in task.options:
        anew = replace(task, options={**task.options, "recompute": True})
        if memory := needs(anew, scheme):
            yield f"--recompute, the same result in more time {memory}"
    if task.footprint(frugal(task, scheme)).differentiates("network") and not task.tunes:
        for name in OTHERS:
            if memory := needs(replace(task, method=pick("method", name, METHODS), options={}), scheme):
                yield f"the method {name}, which does not differentiate the network {memory}"
                break
    least = 2 if task.tunes else 1
    if task.rows > least and (memory := needs(replace(task, rows=least), scheme)):
        yield f"{'two pictures in an update' if task.tunes else 'one row at a time'} {memory}"
    sized: Any = getattr(task.flow, "sized", None)
    multiple = getattr(task.flow, "multiple", 16)
    for factor in (2, 4, 8) if sized is not None else ():
        high, wide = (max(side // factor // multiple, 1) * multiple for side in picture(task.flow)[1:])
        if min(high, wide) < 64:
            return
        with suppress(ValueError):  # not every operator, and not every network, takes any size
            if memory := needs(replace(task, flow=sized(high, wide)), scheme):
                yield f"{size} {wide}x{high} {memory}"
                return


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


def packed(flow: Flow, scheme: str) -> int:
    """Bytes of all weights."""
    return sum(size_in_bytes(each) for part in configured(hollow(flow), Settings(scheme))[1].values() for each in part)


def size_in_bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers()))


def _checkpointable(flow: Flow, part: str) -> bool:
    found = modules_of(flow)[part]
    return bool(found) and all(getattr(each, "_supports_gradient_checkpointing", False) for each in found)


def _tileable(flow: Flow) -> bool:
    decoders = modules_of(flow)["decoder"]
    able = bool(decoders) and all(hasattr(each, "tile_latent_min_size") for each in decoders)
    return able and max(picture(flow)[1:]) > TILE
