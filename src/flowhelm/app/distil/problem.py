"""What a distillation is made of: the teacher, a student that begins as it, the loss, and what the method reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ... import __version__, distil, guide, recipes
from ...learning import Data, empty
from ...priors import bundled, denoisers, distilled
from ...priors.bundled import Prior
from ...priors.distilled import Described, Refined
from ...priors.grids import stored
from ...train import Loss
from ..errors import BadInput
from ..models import device as devices
from ..options.signature import bind, options, pick
from ..train.run import build
from .request import DistilRequest

Reads = Literal["nothing", "pictures", "pairs"]
OWN = ("teacher", "segments", "points", "times")
"""Arguments of a loss that the run itself gives."""


class Way(NamedTuple):
    """What a method makes, how that draws, and what it reads."""

    kind: distilled.Kind
    solver: Literal["jumps", "jumps:fresh=100", "flow_turbo"]
    reads: Reads


WAYS: Mapping[str, Way] = {
    "arc_flow": Way("arc", "jumps", "nothing"),
    "pi_flow": Way("pi", "jumps", "nothing"),
    "free_flow": Way("map", "jumps", "nothing"),
    "mean_flow": Way("map", "jumps", "pictures"),
    "mdt_dist": Way("ends", "jumps:fresh=100", "pictures"),
    "consistency": Way("ends", "jumps:fresh=100", "pictures"),
    "reflow": Way("straight", "jumps", "pairs"),
    "straighten": Way("straight", "jumps", "nothing"),
    "flow_turbo": Way("refiner", "flow_turbo", "pictures"),
}


@dataclass(eq=False)
class Problem:
    """A distillation, ready to be trained.

    Attributes:
        told: conditions of all classes, each `(classes, ...)`, or none; a teacher's row i is told row i modulo the classes.
        flow: the student, whose network is trained; about: what its file will say.
    """

    request: DistilRequest
    way: Way
    base: Prior
    teacher: Prior
    told: tuple[Tensor, ...]
    flow: Any
    about: Described
    values: Mapping[str, Any]
    method: Callable[..., Tensor]

    @property
    def classes(self) -> Sequence[str]:
        return tuple(self.base.about.get("classes", ()))

    @property
    def drawn(self) -> bool:
        """Whether the teacher has to draw pictures first."""
        return self.way.reads == "pairs" or (self.way.reads == "pictures" and self.request.data is None)

    @property
    def stages(self) -> int:
        return 2 if self.way.reads == "pairs" and self.reflowed else 1

    @property
    def reflowed(self) -> int:
        """Updates of reflow before the last stage."""
        own = self.request.reflow_updates
        return self.request.updates if own is None else own

    def loss(self, last: bool = True) -> Loss:
        """Of the last stage, or of the reflow before it."""
        request, given = self.request, dict(self.values)
        known = options(self.method)
        if "anneal" in known:
            given.setdefault("anneal", max(1, request.updates // 2))
        if "segments" in known:
            given["segments"] = request.steps
        if "points" in known:
            given["points"] = request.steps if last else None
            return partial(self.method, **given)
        if request.method == "straighten":
            given["times"] = self.flow.times(request.steps)
        return partial(self.method, teacher=self.teacher, **given)

    def data(self, pairs: Sequence[Tensor] = ()) -> Data:
        """What is read; `pairs`: sources, the teacher's pictures, and what each was told."""
        request = self.request
        if self.way.reads == "nothing":
            return empty(request.rows, *self.told)
        if self.drawn:
            source, clean, *told = pairs
            rows = distil.paired(source, clean, *told, batch=request.rows)
            return rows if self.way.reads == "pairs" else lambda index: rows(index)._replace(source=None)
        assert request.data is not None
        builder = pick("recipe", request.prior, recipes.ALL)
        needed = [name for name, each in options(builder).items() if each.needed and name != "data"]
        if needed:
            raise BadInput(
                f"--data: the recipe of {request.prior} reads more files (--{needed[0]}); leave --data out: the teacher draws"
            )
        return build(
            builder, bind(builder, {"data": request.data, "batch": request.rows, "seed": request.seed})
        ).data  # fmt: skip

    def drawing(self, net: nn.Module) -> Any:
        """What draws with these weights, and is told classes by name."""
        flow = replace(self.flow, net=net)
        if self.about.kind != "refiner":
            return flow
        said = {**self.base.about, "solver": self.about.solver, "calls": self.about.calls}
        base = self.base
        return Refined(base.net, base.shape, base.path, null=base.null, name=base.name, about=said, refiner=flow)

    def trained(self, net: nn.Module) -> nn.Module:
        """The part of a network that is written: a critic is left out."""
        return net.net if isinstance(net, distil.Watched) else net


def prepared(request: DistilRequest) -> Problem:
    """Opens the teacher and makes the student.

    Raises:
        BadInput: anything wrong with what was asked for.
    """
    devices.exactly(request.threads or torch.get_num_threads())
    device = devices.to_device(request.device)
    method = pick("method", request.method, distil.ALL)
    way = WAYS[request.method]
    if request.method == "free_flow" and request.steps > 1:
        raise BadInput("--steps: the maps of free_flow begin at the source, and draw in one call; take --steps 1")
    values = bind(method, request.method_options)
    if taken := [name for name in OWN if name in values]:
        raise BadInput(f"--{taken[0]} is set by the run itself; leave it out")
    if request.data is not None and way.reads != "pictures":
        raise BadInput(f"--data: {request.method} reads {way.reads}; leave it out")
    if request.data is not None and request.prior not in bundled.NAMES:
        raise BadInput(
            f"--data is read by the recipe of a bundled prior, and {request.prior!r} is none; leave it out: the teacher draws"
        )
    if denoisers.named(request.prior):
        raise BadInput(
            f"{request.prior!r} is a denoiser of deepinv; distil a bundled prior, or a file of flowhelm train"
        )
    base = bundled.load(request.prior, str(device))
    if base.shape[-1] > 64:
        raise BadInput(
            f"{base.name} draws pictures of {base.shape[-1]} pixels, one at a time; a student is for priors of up to 64, such as fashion"
        )
    classes = list(base.about.get("classes", ()))
    scale = base.scale if request.scale is None else request.scale
    if not classes and request.scale not in (None, 1):
        raise BadInput(f"--scale: {base.name} takes no classes, so that there is nothing to guide by; leave it out")
    rule = partial(guide.cfg, scale=scale) if classes and scale != 1 else None
    told = base.told(classes).condition if classes else ()
    teacher = replace(base, condition=told, guidance=rule)
    times = _grid(request) if request.method == "straighten" else None
    about = Described(
        kind=way.kind, base=base.name, sha256=distilled.sha256(bundled.weights(request.prior)), solver=way.solver,
        calls=request.steps, times=times, scale=scale if rule else 1.0, parts=request.parts, up=request.way_up, method=request.method,
        updates=request.updates, flowhelm=__version__,
    )  # fmt: skip
    made = distilled.blank(base, about)
    net: nn.Module = made.net
    if about.kind == "refiner":
        net.requires_grad_(True)
    else:
        net = distilled.trainable(net, request.rank, request.seed, up=request.way_up)
    if request.method == "free_flow":
        critic = distilled.trainable(copy.deepcopy(base.net), request.rank, request.seed, up=request.way_up)
        net = distil.Watched(net, critic)
    flow = replace(made, net=net.to(device).to(memory_format=torch.channels_last))
    return Problem(request, way, base, teacher, told, flow, about, values, method)


def _grid(request: DistilRequest) -> list[float] | None:
    """The grid that was searched for the prior, if there is one of so many steps; else the uniform one."""
    try:
        return [float(t) for t in stored(request.prior, request.steps, "euler")]
    except ValueError:
        return None


def folder(request: DistilRequest) -> Path:
    return request.out or Path("runs") / f"{Path(request.prior).stem}-{request.method}-{request.steps}"
