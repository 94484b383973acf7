"""What a run was made of: hashes of what it read, versions of what it ran on, and how two runs differ in them."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ... import __version__
from ...priors import adapters
from ..files.atomic import sha256
from . import opening
from .doctor import installed
from .request import ModelRequest

USUAL = ("torchvision", "deepinv", "numpy", "Pillow")


def weights(request: ModelRequest) -> dict[str, str]:
    """Fingerprints of the weights of a run."""
    adapter = getattr(request, "adapter", None)
    of_adapter = {} if adapter is None else {"adapter sha256": sha256(adapters.place(adapter))}
    if not opening.is_pipeline(request.prior):
        return {"prior sha256": sha256(opening.weights(request.prior))} | of_adapter
    found = {"prior fingerprint": opening.fingerprint(request.prior)} | of_adapter
    if (request.quantize or "").endswith(".gguf"):
        packed = Path(request.quantize or "")
        found["quantize fingerprint"] = opening.fingerprint_of(packed.parent, [Path(packed.name)])
    return found


def environment(request: ModelRequest, packages: Sequence[str] = USUAL) -> dict[str, str]:
    """What the numbers of a run may depend on besides its settings: versions of what it uses, and the processor."""
    if opening.is_pipeline(request.prior):
        packages = [*dict.fromkeys([*packages, "diffusers", "transformers"])]
    cuda = request.device.startswith("cuda")
    return {
        "flowhelm": __version__,
        "torch": torch.__version__,
        **{name: installed(name) for name in packages},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name(request.device) if cuda else torch.backends.cpu.get_cpu_capability(),
    }


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What has changed, a line each."""
    return [f"{name} was {str(old.get(name))[:200]}, is {new[name]}" for name in new if old.get(name) != new[name]]


def changes(old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs between the inputs and environments of two runs, in lines; one that says so if nothing does."""
    found = [line for before, after in zip(old, new, strict=True) for line in differences(before, after)]
    return found or ["nothing that is recorded has changed"]
