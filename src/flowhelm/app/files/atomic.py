"""Files that appear whole or not at all; and those of a run beside its pictures: hashes, the resume file, and names."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...priors import bundled
from ..errors import BadInput

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Of pictures, by suffix."""


def put(path: str | Path, save: Callable[[Path], object]) -> None:
    """`save(temporary)`, then renamed: the file appears whole or not at all. A link stays a link.

    Raises:
        BadInput: the file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    except (OSError, ValueError) as error:  # no name at all, or one that holds a zero byte
        raise BadInput(f"{str(path)!r} cannot be written ({reason(error)}); choose another folder or name") from error
    try:
        save(temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written ({reason(error)}); choose another folder or name") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Writes `mapping` as UTF-8 JSON with sorted keys and a newline at the end, whole or not at all.

    Raises BadInput if the file cannot be written, ValueError on NaN or infinity, which JSON cannot hold.
    """
    text = json.dumps(mapping, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    data = f"{text}\n".encode(errors="backslashreplace")  # a file name's stray bytes become JSON's own \udcxx
    put(path, lambda temporary: temporary.write_bytes(data))


def check_writable(folder: str | Path) -> None:
    """Raises BadInput unless a file can be made in `folder`, found by making one; call it before the long work."""
    probe = Path(folder) / f".{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:
        remedy = "make it first" if isinstance(error, FileNotFoundError) else "choose another"
        raise BadInput(f"folder {str(folder)!r} cannot be written to ({reason(error)}); {remedy}") from error


def reason(error: BaseException) -> str:
    """Of a file that cannot be read or written, in a few words."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}); check the path") from error


def hash_of(x: Tensor) -> str:
    """Of the numbers themselves, before they are rounded to a picture."""
    return hashlib.sha256(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes()).hexdigest()


def weights(prior: str) -> Path:
    """The file of a prior: bundled by name, or a path."""
    return bundled.weights(prior)


def outputs(out: Path) -> dict[str, Path]:
    """Where the files of a run go: all beside the result, all beginning like it."""
    stem = out.stem.removesuffix(".restored")
    names = {
        "strip": "strip.png",
        "run": "run.json",
        "degraded": "degraded.png",
        "preview": "preview.png",
        "partial": "partial.png",
        "resume": "resume.safetensors",
    }
    return {"out": out} | {what: out.with_name(f"{stem}.{end}") for what, end in names.items()}


def check_outputs(out: Path, inputs: list[Path]) -> None:
    """Raises BadInput if the result cannot have that name, or a file of the run would replace one that it reads."""
    if out.suffix.lower() not in FORMATS:
        raise BadInput(f"--out {str(out)!r} has no known picture suffix; name it one of {' '.join(FORMATS)}")
    taken = {path.resolve() for path in inputs}
    for path in outputs(out).values():
        if path.resolve() in taken:
            raise BadInput(f"{str(path)!r} would be overwritten, but is read; choose another --out")


def put_picture(path: Path, picture: Image.Image) -> None:
    put(path, lambda temporary: picture.save(temporary, "PNG"))


def put_resume(path: Path, x: Tensor, noise: Tensor, carried: Mapping[str, Tensor], story: Mapping[str, Any]) -> None:
    """State, noise streams and what the method carries from step to step as tensors; `story` as JSON."""
    # copies: a file does not take two tensors that share their memory
    tensors = {
        name: each.detach().cpu().contiguous().clone() for name, each in {**carried, "x": x, "noise": noise}.items()
    }
    elsewhere = sorted(name for name, each in carried.items() if each.device.type != "cpu")
    text = json.dumps({**story, "on device": elsewhere}, sort_keys=True)
    put(path, lambda temporary: save_file(tensors, temporary, {"flowhelm": text}))


def get_resume(path: Path) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]:
    """What `put_resume` wrote: x, noise, carried (on the run's device what was there), story. Raises BadInput for any other file."""
    if not path.is_file():
        raise BadInput(f"{str(path)!r} does not exist; --resume takes the .resume.safetensors file of a stopped run")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (a handle, not a dict)
            story = json.loads(file.metadata()["flowhelm"])
        x, noise, device = tensors.pop("x"), tensors.pop("noise"), story["settings"]["device"]
        elsewhere = story.get("on device", list(tensors))
    except Exception as error:  # safetensors raises its own type
        raise BadInput(f"{str(path)!r} is not a resume file of flowhelm ({error}); start the run again") from error
    carried = {name: each.to(to_device(device)) if name in elsewhere else each for name, each in tensors.items()}
    return x, noise, carried, story


def get_run(path: Path) -> dict[str, Any]:
    """What a run wrote about itself. Raises BadInput for any other file."""
    try:
        run = json.loads(path.read_text())
        return {part: run[part] for part in ("settings", "inputs", "environment", "result")}
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; `rerun` takes the .run.json file of a run") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{str(path)!r} is not the .run.json file of a run ({error})") from error


def to_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} is not there ({str(error).splitlines()[0]}); use --device cpu") from error
    return device
