"""Nodes that restore pictures and draw them. A node per operator and per method. What can be set, its range and its help are those of
flowhelm's own requests and signatures.

IMAGE is `(b, h, w, c)` in [0, 1], MASK `(b, h, w)` with 1 where something is to be filled in.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

try:
    import flowhelm
    from flowhelm import operators
    from flowhelm.app.draw.request import DrawRequest
    from flowhelm.app.draw.rows import batches
    from flowhelm.app.files.pictures import to_pil
    from flowhelm.app.models.opening import OF_PIPELINES, is_pipeline
    from flowhelm.app.models.request import ModelRequest
    from flowhelm.app.options import cards
    from flowhelm.app.options.request import Option, fields
    from flowhelm.app.options.signature import bind, options
    from flowhelm.app.restore.request import PictureRequest
    from flowhelm.app.run import Event, Stepped, drive
    from flowhelm.cards import RESTORE_OR_STEER
    from flowhelm.entry import members
    from flowhelm.known import PHOTOS
    from flowhelm.priors import NAMES
except ImportError as error:
    raise ImportError(f"flowhelm's nodes need flowhelm ({error}): {sys.executable} -m pip install flowhelm") from error

FAR, MANY = 1e6, 10_000
"""The largest number and whole number of an option that has no range of its own; a text field would take more."""
SEED = {"min": 0, "max": 2**53, "control_after_generate": True}  # beyond it, the numbers of a browser have gaps
PAINTED = "1 (painted) where something is missing and is filled in, 0 where the picture is known: as ComfyUI's mask editor paints."
DRAWN = "The {} as a picture, bright where it is large; made to sum to 1. Instead, a file may be named below."
PREVIEWS = 1.0
"""Seconds between estimates that are shown."""
OPENING, PICTURE, DRAWING = fields(ModelRequest), fields(PictureRequest), fields(DrawRequest)


class Chosen(NamedTuple):
    """An operator or a method, and its options by name; a mask stays a MASK."""

    name: str
    options: Mapping[str, Any]


class Prior:
    """A model of what pictures look like, loaded once."""

    CATEGORY = "flowhelm"
    DESCRIPTION = "Loads a prior: one that ships with flowhelm, a .safetensors file that `flowhelm train` wrote, or a diffusers pipeline."
    RETURN_TYPES = ("FLOWHELM_PRIOR",)
    RETURN_NAMES = ("prior",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
        other = "Instead: a .safetensors file, a folder with model_index.json, or org/name of the hub."
        told = {name: _field(OPENING[name]) for name in (*OF_PIPELINES, "threads")}
        for name in ("prompt", "negative"):
            told[name][1]["multiline"] = True
        return {
            "required": {
                "name": (list(NAMES), {"default": PHOTOS, "tooltip": "A prior that ships with flowhelm."}),
                "device": (devices, {"default": devices[0], "tooltip": OPENING["device"].help}),
            },
            "optional": {"other": ("STRING", {"default": "", "tooltip": other}), **told},
        }

    @classmethod
    def IS_CHANGED(cls, name: str, device: str, other: str = "", **_: Any) -> str:
        """A file that was written anew is read anew."""
        if not other or not os.path.isfile(other):
            return name
        found = os.stat(other)
        return f"{other} {found.st_size} {found.st_mtime_ns}"

    def load(self, name: str, device: str, other: str = "", **told: Any) -> tuple[flowhelm.Restorer]:
        chosen = other.strip() or name
        given = _given(OPENING, told)
        if not is_pipeline(chosen):
            given = {name: value for name, value in given.items() if name not in OF_PIPELINES}
        return (flowhelm.Restorer(chosen, device, **given),)


class Restore:
    """The picture that agrees with what was measured and with the prior."""

    CATEGORY = "flowhelm"
    DESCRIPTION = (
        "Restores each picture of a batch as `flowhelm restore` would; without a method, by the operator's preset."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "report")
    FUNCTION = "restore"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        first, then = ("std", "steps", "seed"), ("simulate", "keep")  # in the order of the workflows that people have
        known = {
            name: _field(option)
            for name, option in PICTURE.items()
            if not name.endswith(("operator", "method", "_options"))
        }
        known["seed"][1].update(SEED)
        rest = [name for name in known if name not in (*first, *then)]
        return {
            "required": {
                "image": ("IMAGE",),
                "prior": ("FLOWHELM_PRIOR",),
                "operator": ("FLOWHELM_OPERATOR",),
                **{name: known[name] for name in first},
            },
            "optional": {"method": ("FLOWHELM_METHOD",), **{name: known[name] for name in (*then, *rest)}},
        }

    def restore(
        self, image: Tensor, prior: flowhelm.Restorer, operator: Chosen, method: Chosen | None = None, **given: Any
    ) -> tuple[Tensor, str]:
        tell, lines, pictures = _progress(), [], []
        asked = _given(PICTURE, given)
        if method is not None:
            asked |= {"method": method.name, "method_options": dict(method.options)}
        for index, one in enumerate(image):

            def each(event: Event, first: int = index) -> None:
                if isinstance(event, Stepped):
                    tell(first * event.total + event.index, len(image) * event.total, event.picture)

            ready = prior.prepare(
                one[..., :3].movedim(-1, 0) * 2 - 1, operator.name, operator_options=_of_row(operator.options, index, len(image)), **asked,
            )  # fmt: skip
            made = drive(prior.events(ready), each)
            pictures.append(((made.picture + 1) / 2).clamp(0, 1).movedim(0, -1))
            score = f", PSNR {made.scores['psnr']:.2f} dB" if made.scores.get("psnr") else ""
            lines.append(
                f"{made.settings['operator']} by {made.settings['method']}: "
                f"{made.evaluations} evaluations in {made.seconds:.1f} s{score}"
            )
        return torch.stack(pictures), "\n".join(lines)


class Sample:
    """Pictures drawn from a prior."""

    CATEGORY = "flowhelm"
    DESCRIPTION = (
        "Draws pictures as `flowhelm sample` would. A pipeline of diffusers is told its prompt where it is loaded."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        known = {name: _field(DRAWING[name]) for name in ("count", "steps", "solver", "seed")}
        known["count"][1].update({"default": 1, "min": 1, "max": 256})
        known["seed"][1].update(SEED)
        about = {
            "default": "",
            "tooltip": "A class of pictures that a bundled prior knows, such as coat of fashion; none: any.",
        }
        return {"required": {"prior": ("FLOWHELM_PRIOR",), **known}, "optional": {"class_name": ("STRING", about)}}

    def draw(
        self, prior: flowhelm.Restorer, count: int, steps: int, solver: str, seed: int, class_name: str = ""
    ) -> tuple[Tensor]:
        tell, rows = _progress(), 1 if is_pipeline(prior.prior) else batches(prior.flow, count, guided=False)
        drawn = flowhelm.generate(
            prior.flow, count=count, steps=steps, seed=seed, solver=solver, classes=[class_name] if class_name else (),
            watch=lambda done: tell(done, math.ceil(count / rows) * steps),
        )  # fmt: skip
        pictures = ((drawn + 1) / 2).clamp(0, 1).movedim(1, -1)
        return (pictures.expand(-1, -1, -1, 3).contiguous() if pictures.shape[-1] == 1 else pictures,)


class _Options:
    """What the nodes of operators and methods have in common; `function` is whose options they show."""

    function: ClassVar[Callable[..., Any]]
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        inputs = {name: _option(cls.function, option) for name, option in options(cls.function).items()}
        files = [name for name, (kind, _) in inputs.items() if kind == "IMAGE"]
        more: dict[str, Any] = {name: inputs.pop(name) for name in files}
        more |= {
            f"{name}_file": ("STRING", {"default": "", "tooltip": _help(options(cls.function)[name])}) for name in files
        }
        if cls.function in RESTORE_OR_STEER:
            about = (
                "What stands at its default is taken from the operator's preset, where there is one for this method."
            )
            more["preset"] = ("BOOLEAN", {"default": True, "tooltip": f"{about} Off: as it stands here."})
        return {"required": inputs, "optional": more}

    def choose(self, preset: bool = False, **given: Any) -> tuple[Chosen]:
        """No VALIDATE_INPUTS: ComfyUI would say what that returns once for each input."""
        known = options(self.function)
        for name in [name for name in given if name.removesuffix("_file") in known and name not in known]:
            if typed := given.pop(name).strip():
                given.setdefault(name.removesuffix("_file"), typed)
        if missing := [name for name, option in known.items() if option.needed and given.get(name) is None]:
            raise ValueError(f"{self.function.__name__} needs {missing[0]}: connect a picture to it, or name a file")
        bind(self.function, {name: "later" if isinstance(value, Tensor) else value for name, value in given.items()})
        if preset:
            usual = {name: _option(self.function, option)[1]["default"] for name, option in known.items()}
            given = {name: value for name, value in given.items() if value != usual[name]}
        return (Chosen(self.function.__name__, given),)


def _node(part: str, function: Callable[..., Any]) -> type:
    """The class of a node that chooses `function`."""
    name = f"Flowhelm{part}{''.join(word.capitalize() for word in function.__name__.split('_'))}"
    return type(
        name,
        (_Options,),
        {
            "__doc__": cards.title(function),
            "DESCRIPTION": cards.text(part.lower(), function),
            "CATEGORY": f"flowhelm/{part.lower()}s",
            "RETURN_TYPES": (f"FLOWHELM_{part.upper()}",),
            "RETURN_NAMES": (part.lower(),),
            "function": staticmethod(function),
        },
    )


def _field(option: Option) -> tuple[Any, dict[str, Any]]:
    """The input for a field of a request. Of one that may be left out, 0 and an empty text mean that it is."""
    bare = option._replace(kinds=tuple(pair for pair in option.kinds if pair[0] is not NoneType))
    left = {int: 0, float: 0.0}.get(bare.types[0], "") if len(bare.types) == 1 else ""
    kind, about = _widget(bare, left if option.default is None else option.default)
    if option.default is None and isinstance(kind, list):
        kind = ["", *kind]
    elif option.default is None and kind in ("INT", "FLOAT"):
        about |= {"min": 0, "tooltip": f"{about['tooltip']} 0: not given."}
    return kind, about


def _given(known: Mapping[str, Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of such inputs those that were given."""
    return {name: value for name, value in values.items() if known[name].default is not None or value not in ("", 0)}


def _option(function: Callable[..., Any], option: Option) -> tuple[Any, dict[str, Any]]:
    """The input for an option of a function. None, and what is one of several types, is typed as a text."""
    if Path in option.types:
        if Tensor in (kind for kind, _ in members(_hints(function)[option.name])):
            return "MASK", {"tooltip": PAINTED}
        return "IMAGE", {"tooltip": DRAWN.format(option.name)}
    default = "" if option.needed else "none" if option.default is None and NoneType in option.types else option.default
    return _widget(option, default)


def _widget(option: Option, default: Any) -> tuple[Any, dict[str, Any]]:
    kinds = [(kind, bounds) for kind, bounds in option.kinds if kind is not int or float not in option.types]
    about = {"default": default, "tooltip": _help(option)}
    kind, bounds = kinds[0]
    if len(kinds) == 1:
        if kind is bool:
            return "BOOLEAN", about
        if kind is int:
            least, most = _range(bounds, 1)
            return "INT", {**about, "min": int(least), "max": int(most)}
        if kind is float:
            least, most = _range(bounds, 0)
            return "FLOAT", {**about, "min": least, "max": most, "step": 0.01, "round": False}
        if get_origin(kind) is Literal:
            return list(get_args(kind)), about
    return "STRING", {**about, "default": str(default)}


def _range(bounds: Iterable[Any], apart: int) -> tuple[float, float]:
    """The least and the largest value; `apart`: the distance to a bound that is not reached, which a widget does not know."""
    least, most = (-MANY, MANY) if apart else (-FAR, FAR)
    for bound in bounds:
        least = getattr(bound, "ge", getattr(bound, "gt", least - apart) + apart)
        most = getattr(bound, "le", getattr(bound, "lt", most + apart) - apart)
    return least, most


def _help(option: Option) -> str:
    return " ".join(option.help.split())


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.get_annotations(function, eval_str=True)


def _of_row(given: Mapping[str, Any], index: int, total: int) -> dict[str, Any]:
    """Options for one picture of a batch. A MASK is 1 where something is missing, an operator's mask 1 where it is known."""
    row = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            drawn = value.dim() == 4  # an IMAGE
            several = value if drawn or value.dim() == 3 else value[None]
            if len(several) not in (1, total):
                raise ValueError(f"{name}: expected one {name} or {total}, one per picture, got {len(several)}")
            one = several[index if len(several) > 1 else 0]
            if not drawn and not (one >= 0.5).any():
                raise ValueError(
                    "nothing is painted in the mask: open the picture in the mask editor, and paint over what is missing"
                )
            value = one.mean(-1) if drawn else one < 0.5
        row[name] = value
    return row


def _progress() -> Callable[..., None]:
    """Tells ComfyUI's bar, with the estimate now and then, and raises what ComfyUI raises when its user cancels; elsewhere does nothing."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted as stop_if_asked
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda done, total, picture=None: None
    bar, last = ProgressBar(1), -PREVIEWS

    def tell(done: int, total: int, picture: Callable[[], Tensor] | None = None) -> None:
        nonlocal last
        stop_if_asked()
        preview = None
        if picture is not None and time.monotonic() - last >= PREVIEWS:
            preview, last = ("JPEG", to_pil(picture()).convert("RGB"), 512), time.monotonic()
        bar.update_absolute(done, total, preview)

    return tell


_CHOICES = {
    f"Flowhelm {part}: {function.__name__}": _node(part, function)
    for part, functions in (("Operator", operators.ALL), ("Method", RESTORE_OR_STEER))
    for function in functions
}
_NODES = {"Flowhelm Prior": Prior, "Flowhelm Restore": Restore, "Flowhelm Sample": Sample}
NODE_CLASS_MAPPINGS = {f"Flowhelm{node.__name__}": node for node in _NODES.values()}
NODE_CLASS_MAPPINGS |= {node.__name__: node for node in _CHOICES.values()}
NODE_DISPLAY_NAME_MAPPINGS = {f"Flowhelm{node.__name__}": shown_as for shown_as, node in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS |= {node.__name__: shown_as for shown_as, node in _CHOICES.items()}
