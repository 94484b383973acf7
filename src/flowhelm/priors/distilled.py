"""Files of students: an adapter, the layers that were trained whole, and which prior they are of. `flowhelm distil` writes them.

LAYER.lora_A.weight, LAYER.lora_B.weight   the adapter, its scale folded in; of the student's network
LAYER.weight, ...                          what was trained whole: the head, the spans, the way up; all of a refiner
base.*                                     the weights of the prior, if it does not ship with the package
student                                    a `Described`: the kind, the prior and its sha256, how to draw, what made it

fp16. Such a file opens as a prior by itself, `flowhelm.load("students/fashion-2.safetensors")`, and by the name of one that ships.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from .. import adapter
from ..flow import Guidance, NetFlow
from ..flow_map import Distilled, NetMap
from ..known import NAMES, PICKLES, STUDENTS
from ..momentum import ArcFlow
from ..policy import PiFlow
from . import adapters, bundled
from .bundled import Prior
from .students import Headed, TwoTimes, arc, pi, refiner, student
from .unet import UNet

M = TypeVar("M", bound=nn.Module)
WHOLE = {"head", "span", "up"}
"""Layers of a student that are trained whole: small ones, and those that an adapter cannot change."""
Kind = Literal["map", "ends", "arc", "pi", "straight", "refiner"]


class Described(BaseModel):
    """What a student's file says of itself.

    Attributes:
        kind: "map" of two times; "ends", of which only maps to t = 1 were trained; "arc" of profiles; "pi" of mixtures; "straight", a
            velocity; "refiner".
        base: name of the prior; sha256: of its file. solver, calls: how it draws. times: its grid, if that is not uniform.
        scale: of the guidance inside. parts, growth, widths: of the network. up: whether the way up was trained. method and the rest:
            what made it.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    kind: Kind
    base: str
    sha256: str
    solver: Literal["jumps", "jumps:fresh=100", "flow_turbo"] = "jumps"
    calls: int = Field(2, ge=1, le=1000)
    times: list[Annotated[float, Field(ge=0, le=1)]] | None = None
    scale: float = 1.0
    parts: int = Field(16, ge=2, le=256)
    up: bool = True
    widths: list[Annotated[int, Field(ge=1, le=4096)]] = Field([16, 32], min_length=1, max_length=12)
    method: str = ""


@dataclass(frozen=True, eq=False)
class Student(Distilled, Prior):
    """A student that a file holds: a prior, told like its teacher, whose guidance is inside. One call is one Euler step."""

    def times(self, steps: int) -> Tensor:
        own = self.about.get("times")
        if own is not None and len(own) == steps + 1:
            return torch.tensor(own, dtype=torch.float64)
        return super().times(steps)

    def adapted(self, weights: Mapping[str, Tensor]) -> Self:
        """With an adapter of its prior, such as a style, folded into the layers that it has of it; the head of an arc or a mixture has the
        change of the prior's head in every part."""
        net: Any = self.net
        if not isinstance(net, TwoTimes | Headed):
            return super().adapted(weights)
        made: Any = adapter.sharing(net)
        made.net = adapter.applied(net.net, weights)
        if isinstance(net, Headed):
            change = (made.net.head.weight - net.net.head.weight).detach().repeat(made.parts, 1, 1, 1)
            head = net.head.weight.detach().clone()
            head[: len(change)] += change
            made.head.weight = nn.Parameter(head, requires_grad=False)
        return self.with_net(made)


@dataclass(frozen=True, eq=False)
class MapStudent(NetMap, Student):
    """Of two times."""


@dataclass(frozen=True, eq=False)
class EndStudent(MapStudent):
    """Of two times, of which only maps to t = 1 were trained: its velocity goes to the end, its clean estimate is that of the map."""

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.average(x, t, torch.ones_like(t))


@dataclass(frozen=True, eq=False)
class ArcStudent(ArcFlow, Student):
    """Of profiles."""


@dataclass(frozen=True, eq=False)
class PiStudent(PiFlow, Student):
    """Of mixtures."""


@dataclass(frozen=True, eq=False)
class Refined(Prior):
    """A prior with a refiner beside it, for `sample.flow_turbo`; both are told the same."""

    refiner: NetFlow | None = field(default=None)

    def bind(self, *condition: Tensor, guidance: Guidance | None = None) -> Self:
        assert self.refiner is not None
        return replace(super().bind(*condition, guidance=guidance), refiner=self.refiner.bind(*condition))

    def rows(self, index: Tensor, total: int) -> Self:
        assert self.refiner is not None
        return replace(super().rows(index, total), refiner=self.refiner.rows(index, total))


_KINDS: Mapping[str, type[Student]] = {
    "map": MapStudent,
    "ends": EndStudent,
    "arc": ArcStudent,
    "pi": PiStudent,
    "straight": Student,
}


def blank(base: Prior, about: Described) -> Any:
    """A student as it begins: a flow whose network has weights of its own."""
    if about.kind == "refiner":
        return refiner(base, tuple(about.widths))
    if about.kind == "straight":
        made: NetFlow = replace(base, net=copy.deepcopy(base.net), guidance=None)
    else:
        made = (
            arc(base, about.parts)
            if about.kind == "arc"
            else pi(base, about.parts)
            if about.kind == "pi"
            else student(base)
        )
    told = {"classes", "words", "numbers", "size"} & base.about.keys()
    said = {name: base.about[name] for name in told} | {"scale": 1.0, "solver": about.solver, "calls": about.calls}
    said |= {"times": about.times} if about.times else {}
    return _KINDS[about.kind](
        made.net, base.shape, base.path, null=base.null, name=f"{base.name}-{about.calls}", about=said
    )  # fmt: skip


def trainable(net: M, rank: int, seed: int = 0, *, up: bool = True) -> M:
    """A copy of a student's network with an adapter; that and the layers of `WHOLE`, of which `up` may be left out, are trained, all
    else stays. `net` is used up."""
    net.requires_grad_(False)
    names = [name for name in adapter.layers(net) if not WHOLE & set(name.split("."))]
    made = adapter.injected(net, rank, names, seed=seed)
    for name, weight in made.named_parameters():
        if _whole(name, up):
            weight.requires_grad_(True)
    return made


def _whole(name: str, up: bool) -> bool:
    return bool((WHOLE if up else WHOLE - {"up"}) & set(name.split(".")[:-1]))


def save(net: nn.Module, path: Path, about: Described, base: Prior) -> None:
    """Writes what was trained of a student's network, in fp16, beside and then renamed."""
    part = path.with_name(path.name + ".part")
    weights = {} if about.kind == "refiner" else adapter.state(net)
    kept = {name: each for name, each in net.named_parameters() if ".lora_" not in name and each.requires_grad}
    header = {"student": about.model_dump_json()}
    if about.base not in NAMES:
        weights |= {f"base.{name}": each for name, each in base.net.state_dict().items()}
        header["config"] = json.dumps(base.net.config)
        header["about"] = json.dumps(dict(base.about))
    half = {name: each.detach().to("cpu", torch.half).contiguous() for name, each in (weights | kept).items()}
    part.write_bytes(serialised(half, header))
    part.replace(path)


def described(path: Path) -> Described | None:
    """What a file says of its student; None for one that holds none. Raises ValueError for a header that cannot be read."""
    if path.suffix.lower() in PICKLES or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            said = (f.metadata() or {}).get("student")
    except Exception:  # safetensors' own type: whoever reads the weights says what is wrong
        return None
    if said is None:
        return None
    try:
        return Described.model_validate_json(said)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise ValueError(
            f"student: the header of '{path}' cannot be read ({'.'.join(map(str, wrong['loc']))}: {wrong['msg']}); distil it again"
        ) from None


def load(name: str | Path, device: str = "cpu") -> Prior:
    """A prior as `bundled.load` opens it, or a student by the path of its file, or of one that ships by its name (`known.STUDENTS`).

    Raises:
        ValueError: as `bundled.load`; a student whose prior is not there, or has other weights.
    """
    path = bundled.weights(name)
    about = described(path)
    if about is None:
        if name in STUDENTS and not path.is_file():
            raise ValueError(f"student: the weights of '{name}' are not in this installation; expected '{path}'")
        return bundled.load(name, device)
    with safe_open(path, framework="pt") as f:
        header = f.metadata()
        tensors = {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
    base = _base(path, about, header, tensors)
    made = blank(base, about)
    net: nn.Module = made.net.requires_grad_(False)
    low = {key: each for key, each in tensors.items() if ".lora_" in key}
    whole = {key: each for key, each in tensors.items() if key not in low and not key.startswith("base.")}
    shapes = {
        key: each.shape for key, each in net.named_parameters() if about.kind == "refiner" or _whole(key, about.up)
    }  # fmt: skip
    ups = {key for key in low if ".lora_B." in key}
    paired = {key.replace(".lora_A.", ".lora_B.") for key in low.keys() - ups} == ups
    if not paired or {key: each.shape for key, each in whole.items()} != shapes:
        raise ValueError(f"student: the tensors of '{path}' are not those of the network that it says it is")
    if not all(each.isfinite().all() for each in tensors.values()):
        raise ValueError(f"student: '{path}' holds numbers that are not finite; its training went wrong")
    try:
        net = adapter.applied(net, low) if low else net
    except (ValueError, KeyError) as error:
        raise ValueError(f"student: the tensors of '{path}' do not fit ({error})") from None
    with torch.no_grad():
        for key, each in net.named_parameters():
            if key in whole:
                each.copy_(whole[key])
    net = net.eval().to(device).to(memory_format=torch.channels_last)
    if about.kind == "refiner":
        base = replace(base, net=base.net.to(device))
        said = {**base.about, "solver": about.solver, "calls": about.calls}
        return Refined(
            base.net, base.shape, base.path, null=base.null, name=path.stem, about=said, refiner=replace(made, net=net)
        )  # fmt: skip
    return replace(made, net=net, name=path.stem, about={**made.about, "fingerprint": adapters.fingerprint(base)})


def _base(path: Path, about: Described, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Prior:
    if about.base in NAMES:
        if sha256(bundled.weights(about.base)) != about.sha256:
            raise ValueError(
                f"student: '{path}' was distilled from other weights of {about.base} ({about.sha256[:8]}) than those that are installed; "
                "distil it again"
            )
        return bundled.load(about.base)
    try:
        config = bundled.Config.model_validate_json(header["config"]).model_dump(exclude_unset=True)
        said = bundled.About.model_validate_json(header["about"]).model_dump(exclude_unset=True)
        with torch.device("meta"):
            shapes = {key: each.shape for key, each in UNet(**config).state_dict().items()}
        own = {key.removeprefix("base."): each for key, each in tensors.items() if key.startswith("base.")}
        if {key: each.shape for key, each in own.items()} != shapes:
            raise ValueError("its tensors are not those of the network that it says it is")
    except (KeyError, ValueError) as error:
        raise ValueError(f"student: the prior in '{path}' cannot be read ({str(error).splitlines()[0]})") from None
    net = UNet(**config)
    net.load_state_dict(own)
    net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    size = said.get("size", 256)
    return Prior(net, (net.config["channels"], size, size), null=net.null, name=about.base, about=said)


def sha256(path: Path) -> str:
    """Of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["Described", "Refined", "Student", "blank", "described", "load", "save", "sha256", "trainable"]
