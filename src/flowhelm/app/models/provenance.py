"""What a run was made of: hashes of what it read, versions of what it ran on, and how two runs differ in them."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import __version__, operators
from ..files import atomic as files
from ..files import stacks as sources
from ..options.signature import options, pick
from . import opening as models
from .doctor import installed


def paths(settings: Mapping[str, Any]) -> dict[str, str]:
    """Files that a run reads."""
    builder = pick("operator", settings["operator"], operators.ALL)
    typed = {o.name for o in options(builder).values() if Path in o.types}
    extra = {name: str(value) for name, value in settings["operator_options"].items() if name in typed}
    # an archive of kernels may be followed by the kernel's name
    extra = {name: v if Path(v).exists() else v.rpartition(":")[0] or v for name, v in extra.items()}
    prior = {} if models.is_pipeline(settings["prior"]) else {"prior": str(files.weights(settings["prior"]))}
    return {"photo": settings["photo"]} | prior | extra


def inputs(settings: Mapping[str, Any], weights: Mapping[str, str] | None = None) -> dict[str, str]:
    """Hashes of what a run reads."""
    read = {name: path for name, path in paths(settings).items() if name != "prior"}
    found = {f"{name} sha256": sources.sha256(path) for name, path in read.items()}
    return found | dict(fingerprints(settings) if weights is None else weights)


def fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    """Of the weights of a run."""
    prior = paths(settings).get("prior")
    found = {} if prior is None else {"prior sha256": files.sha256(Path(prior))}
    if models.is_pipeline(settings["prior"]):
        found["prior fingerprint"] = models.fingerprint(settings["prior"])
        if (settings.get("quantize") or "").endswith(".gguf"):
            found["quantize fingerprint"] = models.fingerprint_of_file(Path(settings["quantize"]))
    return found


def environment(
    settings: Mapping[str, Any], packages: Sequence[str] = ("torchvision", "deepinv", "numpy", "Pillow")
) -> dict[str, str]:
    """What the numbers of a run may depend on besides its settings: versions of what it uses, and the processor."""
    if models.is_pipeline(settings["prior"]):
        packages = [*dict.fromkeys([*packages, "diffusers", "transformers"])]
    cuda = settings["device"].startswith("cuda")
    return {
        "flowhelm": __version__,
        "torch": torch.__version__,
        **{name: installed(name) for name in packages},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name(settings["device"])
        if cuda
        else torch.backends.cpu.get_cpu_capability(),
    }


def story(settings: Mapping[str, Any], weights: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything a run's file holds but its result."""
    return {"settings": settings, "inputs": inputs(settings, weights), "environment": environment(settings)}


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [f"{name} was {old.get(name)}, is {new[name]}" for name in new if old.get(name) != new[name]]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' stories, in lines; one that says so if nothing does."""
    found = [line for part in ("inputs", "environment") for line in differences(old[part], new[part])]
    return found or ["nothing that is recorded has changed"]
