"""Files of adapters: PEFT's names in safetensors, as diffusers and ComfyUI read them, at full strength whether they read the header or not.

LAYER.lora_A.weight, LAYER.lora_B.weight   of a pipeline's network with `transformer.` or `unet.` before it; the scale is folded into B
lora_adapter_metadata                      rank and alpha, the same number, for diffusers
flowhelm                                   what it is made for, by which method, from which base
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from .. import adapter
from ..flow import Flow
from ..known import ADAPTERS
from .bundled import PICKLES

F = TypeVar("F", bound=Flow)
MOST = 4096  # rank


class About(BaseModel):
    """What an adapter's file says of itself; more may stand there."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    base: str = ""
    fingerprint: str = ""
    rank: int = 0


class Adapter(NamedTuple):
    """An adapter as it was read: weights by the names of the network's layers, scale folded in."""

    weights: Mapping[str, Tensor]
    about: About


def save(flow: Any, path: Path, about: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Writes the adapter of a flow that `with_lora` made, beside and then renamed.

    Args:
        about: what made it; JSON can hold it. dtype: of the numbers in the file.
    """
    weights = {name: each.to(dtype) for name, each in adapter.state(flow.net).items()}
    rank = max(len(each) for name, each in weights.items() if name.endswith("lora_A.weight"))
    names = sorted({name.rpartition(".lora_")[0] for name in weights})
    prefix = component(flow)
    said = {"r": rank, "lora_alpha": rank, "target_modules": names, "lora_dropout": 0.0, "bias": "none"}
    header = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({f"{prefix}{name}": value for name, value in said.items()}),
        "flowhelm": json.dumps({"base": _named(flow), "fingerprint": fingerprint(flow), "rank": rank, **about}),
    }
    part = path.with_name(path.name + ".part")
    part.write_bytes(serialised({f"{prefix}{name}": each.contiguous() for name, each in weights.items()}, header))
    part.replace(path)


def place(path: str | Path) -> Path:
    """The file of an adapter: of one that ships by its name, unless there is a file (no folder) of that name."""
    ships = str(path) in ADAPTERS and not Path(path).is_file()
    return Path(__file__).parent / "weights" / f"{path}.safetensors" if ships else Path(path)


def read(path: str | Path) -> Adapter:
    """An adapter's file, of ours or of diffusers (PEFT's names), or one that ships, by its name.

    Raises:
        ValueError: no such file, a pickle, or a file that holds no adapter; one sentence.
    """
    path = place(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"adapter: '{path}' is a pickle, and reading one can run any code; expected a .safetensors file"
        )
    if not path.is_file():
        raise ValueError(f"adapter: expected a .safetensors file, got '{path}', which does not exist; check the path")
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  (a handle, not a dict)
        about = About.model_validate_json(header.get("flowhelm", "{}"))
        said = json.loads(header.get("lora_adapter_metadata", "{}"))
    except (ValidationError, ValueError, RecursionError) as error:
        raise ValueError(f"adapter: the header of '{path}' cannot be read ({str(error).splitlines()[0]})") from None
    except Exception as error:  # safetensors raises its own type
        raise ValueError(f"adapter: '{path}' is not a readable safetensors file ({error})") from None
    told = [key for key in tensors if key.endswith(".alpha") and tensors[key].numel() == 1]
    alphas = {key.removesuffix(".alpha"): float(tensors.pop(key)) for key in told}
    plain = {_plain(key): key for key in tensors}
    names = {name.rpartition(".lora_")[0] for name in plain}
    if (
        not plain
        or any(f"{name}.lora_{part}.weight" not in plain for name in names for part in "AB")
        or len(plain) != 2 * len(names)
    ):
        odd = next((key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))), "nothing")
        raise ValueError(
            f"adapter: expected pairs LAYER.lora_A.weight and LAYER.lora_B.weight in '{path}', got {odd!r}; it is no LoRA adapter as PEFT "
            "writes it"
        )
    weights = {}
    for name in sorted(names):
        a, b = (tensors[plain[f"{name}.lora_{part}.weight"]].float() for part in "AB")
        if a.ndim not in (2, 4) or b.ndim != a.ndim or b.shape[1] != len(a) or not 0 < len(a) <= MOST:
            raise ValueError(
                f"adapter: the shapes {tuple(a.shape)} and {tuple(b.shape)} of {name!r} in '{path}' do not fit"
            )
        own = alphas.get(plain[f"{name}.lora_A.weight"].removesuffix(".lora_A.weight"))
        scale = own / len(a) if own is not None else _scale(said, len(a))
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = a, b * scale
    if not all(each.isfinite().all() for each in weights.values()):
        raise ValueError(f"adapter: '{path}' holds numbers that are not finite; its training went wrong")
    return Adapter(weights, about)


def applied(flow: F, path: str | Path) -> F:
    """The prior, or a student of it, with the adapter of a file folded in; see `adapter.applied`.

    Raises:
        ValueError: as `read`; an adapter of another model, or of the same network with other weights.
    """
    made: Any = flow
    found = read(path)
    if not isinstance(flow, adapter.Adaptable):
        raise ValueError(f"adapter: expected a prior with a network of its own, got {type(flow).__name__}")
    if found.about.fingerprint and found.about.fingerprint != (own := fingerprint(flow)):
        raise ValueError(
            f"adapter: '{path}' was made for the weights of {found.about.base or 'another prior'} ({found.about.fingerprint[:8]}), not for "
            f"these ({own[:8] or 'a pipeline'}); name the prior that it was trained on"
        )
    return made.adapted(found.weights)


def component(flow: Any) -> str:
    """What names of a pipeline's adapter begin with, as in diffusers; nothing of a network alone."""
    parts = getattr(getattr(flow, "pipe", None), "components", {})
    own = next((name for name in parts if name.startswith(("transformer", "unet"))), None)
    return "" if own is None else f"{own}."


def fingerprint(flow: Any) -> str:
    """sha256 over a network's weights, without those of an adapter, of a student those of its prior, whose adapters it takes; nothing for a
    pipeline, whose layers tell enough."""
    if hasattr(flow, "pipe"):
        return ""
    if known := getattr(flow, "about", {}).get("fingerprint"):
        return str(known)
    found = hashlib.sha256()
    for name, each in sorted(flow.net.state_dict().items()):
        if ".lora_" not in name:
            found.update(name.replace(".base_layer", "").encode())
            found.update(each.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return found.hexdigest()


def _named(flow: Any) -> str:
    return str(getattr(flow, "name", type(flow.net).__name__))


def _plain(key: str) -> str:
    """`transformer.blocks.0.to_q.lora_A.weight` -> `blocks.0.to_q.lora_A.weight`."""
    for prefix in ("base_model.model.", "transformer.", "unet.", "diffusion_model."):
        key = key.removeprefix(prefix)
    return key


def _scale(said: Any, rank: int) -> float:
    """Of the header that diffusers writes: alpha / rank; 1 where it says nothing."""
    if not isinstance(said, dict):
        return 1.0
    alpha = next((value for name, value in said.items() if name.rpartition(".")[2] == "lora_alpha"), rank)
    return alpha / rank if isinstance(alpha, int | float) and 0 < alpha < 1e6 else 1.0


__all__ = ["About", "Adapter", "applied", "component", "fingerprint", "place", "read", "save"]
