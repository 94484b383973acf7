"""Nodes that restore pictures and draw them. A node per operator and per method: their inputs are read off the signatures.

IMAGE is `(b, h, w, c)` in [0, 1], MASK `(b, h, w)` with 1 where something is to be filled in.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

try:
    import flowhelm
    from flowhelm import operators
    from flowhelm.app.draw.sample import SOLVERS, batches
    from flowhelm.app.models.opening import is_pipeline
    from flowhelm.app.options import cards
    from flowhelm.app.options.request import Option
    from flowhelm.app.options.signature import bind, members, options, shown
    from flowhelm.app.restore.presets import STD
    from flowhelm.cards import METHODS
    from flowhelm.priors import NAMES
except ImportError as error:
    raise ImportError(f"flowhelm's nodes need flowhelm ({error}): {sys.executable} -m pip install flowhelm") from error

FAR = 2.0**53  # beyond it, the numbers of a browser have gaps


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
        return {
            "required": {"name": (list(NAMES), {"default": "photos"}), "device": (devices, {"default": devices[0]})},
            "optional": {
                "other": ("STRING", {"default": "", "tooltip": other}),
                "prompt": (
                    "STRING",
                    {"default": "", "multiline": True, "tooltip": "What the picture shows; for pipelines."},
                ),
                "negative": ("STRING", {"default": "", "tooltip": "What it does not show; for pipelines."}),
                "scale": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "tooltip": "Of guidance; 0: the pipeline's own."},
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, name: str, device: str, other: str = "", **_: Any) -> str:
        """A file that was written anew is read anew."""
        if not other or not os.path.isfile(other):
            return name
        found = os.stat(other)
        return f"{other} {found.st_size} {found.st_mtime_ns}"

    def load(
        self, name: str, device: str, other: str = "", prompt: str = "", negative: str = "", scale: float = 0.0
    ) -> tuple[flowhelm.Restorer]:
        chosen = other.strip() or name
        told = (
            {"prompt": prompt or None, "negative": negative or None, "scale": scale or None}
            if is_pipeline(chosen)
            else {}
        )
        return (flowhelm.Restorer(chosen, device, **told),)  # type: ignore[arg-type]


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
        help_of = {name: option.help for name, option in options(flowhelm.Restorer.__call__).items()}
        seed = {"default": 0, "min": 0, "max": int(FAR), "control_after_generate": True, "tooltip": help_of["seed"]}
        std = {"default": STD, "min": 0.0001, "max": 10.0, "step": 0.005, "round": False, "tooltip": help_of["std"]}
        return {
            "required": {
                "image": ("IMAGE",),
                "prior": ("FLOWHELM_PRIOR",),
                "operator": ("FLOWHELM_OPERATOR",),
                "std": ("FLOAT", std),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the preset's."}),
                "seed": ("INT", seed),
            },
            "optional": {
                "method": ("FLOWHELM_METHOD",),
                "simulate": ("BOOLEAN", {"default": False, "tooltip": help_of["simulate"]}),
                "keep": ("BOOLEAN", {"default": False, "tooltip": help_of["keep"]}),
            },
        }

    def restore(
        self,
        image: Tensor,
        prior: flowhelm.Restorer,
        operator: Chosen,
        std: float,
        steps: int,
        seed: int,
        method: Chosen | None = None,
        simulate: bool = False,
        keep: bool = False,
    ) -> tuple[Tensor, str]:
        tell, lines, pictures = _progress(), [], []
        for index, one in enumerate(image):

            def watch(step: flowhelm.Step, first: int = index) -> None:
                tell(first * step.total + step.index, len(image) * step.total)

            made = prior(
                one[..., :3].movedim(-1, 0) * 2 - 1, operator.name, method=method.name if method else None, std=std, steps=steps or None,
                seed=seed, simulate=simulate, keep=keep, operator_options=_of_row(operator.options, index, len(image)),
                method_options=dict(method.options) if method else None, watch=watch,
            )  # fmt: skip
            pictures.append(((made.picture + 1) / 2).clamp(0, 1).movedim(0, -1))
            score = f", PSNR {made.scores['psnr']:.2f} dB" if made.scores.get("psnr") else ""
            lines.append(
                f"{made.settings['operator']} by {made.settings['method']}: misfit {made.residual:.2f} of the noise (1 fits), "
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
        seed = {"default": 0, "min": 0, "max": int(FAR), "control_after_generate": True}
        known = "A class that a bundled prior knows, such as coat of fashion; none: as it comes."
        return {
            "required": {
                "prior": ("FLOWHELM_PRIOR",),
                "count": ("INT", {"default": 1, "min": 1, "max": 256}),
                "steps": ("INT", {"default": 25, "min": 1, "max": 1000}),
                "solver": ([f.__name__ for f in SOLVERS], {"default": "euler"}),
                "seed": ("INT", seed),
            },
            "optional": {"class_name": ("STRING", {"default": "", "tooltip": known})},
        }

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
        inputs = {
            name: _widget(option, _takes_tensor(cls.function, name)) for name, option in options(cls.function).items()
        }
        return {"required": inputs, "optional": {}}

    @classmethod
    def VALIDATE_INPUTS(cls, **given: Any) -> bool | str:
        """What is linked is not known yet, and comes as None or not at all."""
        known = options(cls.function)
        try:
            held = {name: "later" for name, option in known.items() if option.needed}
            bind(cls.function, held | {name: value for name, value in given.items() if isinstance(value, str | float)})
        except ValueError as error:
            return str(error)
        return True

    def choose(self, **given: Any) -> tuple[Chosen]:
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


def _widget(option: Option, mask: bool) -> tuple[Any, dict[str, Any]]:
    """The input for an option. None, and what is one of several types, is typed as a text."""
    kinds = tuple(k for k in option.types if k is not int or float not in option.types)
    about: dict[str, Any] = {"tooltip": " ".join(option.help.split())}
    if Path in kinds and mask:
        return "MASK", about
    default = "" if option.needed else shown(option.default)
    if len(kinds) == 1 and default is not None:
        kind = kinds[0]
        if kind is bool:
            return "BOOLEAN", {"default": default, **about}
        if kind is int:
            return "INT", {"default": default, "min": -int(FAR), "max": int(FAR), **about}
        if kind is float:
            return "FLOAT", {"default": default, "min": -FAR, "max": FAR, "step": 0.01, "round": False, **about}
        if get_origin(kind) is Literal:
            return list(get_args(kind)), {"default": default, **about}
    return "STRING", {"default": "none" if default is None and NoneType in kinds else str(default), **about}


def _takes_tensor(function: Callable[..., Any], name: str) -> bool:
    return Tensor in members(inspect.get_annotations(function, eval_str=True)[name])


def _of_row(given: Mapping[str, Any], index: int, total: int) -> dict[str, Any]:
    """Options for one picture of a batch. A MASK is 1 where something is missing, an operator's mask 1 where it is known."""
    row = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            masks = value if value.dim() == 3 else value[None]
            if len(masks) not in (1, total):
                raise ValueError(f"{name}: expected one mask or {total}, one per picture, got {len(masks)}")
            value = masks[index if len(masks) > 1 else 0] < 0.5
        row[name] = value
    return row


def _progress() -> Callable[[int, int], None]:
    """Tells ComfyUI's bar, and raises what ComfyUI raises when its user cancels; elsewhere does nothing."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted as stop_if_asked
        from comfy.utils import ProgressBar
    except ImportError:
        return lambda done, total: None
    bar = ProgressBar(1)

    def tell(done: int, total: int) -> None:
        stop_if_asked()
        bar.update_absolute(done, total)

    return tell


_CHOICES = {
    f"Flowhelm {part}: {function.__name__}": _node(part, function)
    for part, functions in (("Operator", operators.ALL), ("Method", METHODS))
    for function in functions
}
_NODES = {"Flowhelm Prior": Prior, "Flowhelm Restore": Restore, "Flowhelm Sample": Sample}
NODE_CLASS_MAPPINGS = {f"Flowhelm{node.__name__}": node for node in _NODES.values()}
NODE_CLASS_MAPPINGS |= {node.__name__: node for node in _CHOICES.values()}
NODE_DISPLAY_NAME_MAPPINGS = {f"Flowhelm{node.__name__}": shown_as for shown_as, node in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS |= {node.__name__: shown_as for shown_as, node in _CHOICES.items()}
