"""Files that appear whole or not at all; hashes; and the JSON file of a run."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import BadInput, Unwritable

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""Of pictures that are written, by suffix."""
READ = {*FORMATS, ".bmp", ".gif", ".heic", ".heif", ".avif"}
"""Suffixes of pictures that are read, beside camera raw."""


def put(path: str | Path, save: Callable[[Path], object]) -> None:
    """`save(temporary)`, then renamed: the file appears whole or not at all, after a loss of power too. A link stays a link.

    Raises:
        BadInput: the file cannot have that name. Unwritable: it cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    except (OSError, ValueError) as error:  # no name at all, or one that holds a zero byte
        raise BadInput(f"{str(path)!r} cannot be written ({reason(error)}); choose another folder or name") from error
    try:
        save(temporary)
        settle(temporary)
        os.replace(temporary, target)
        settle(target.parent)
    except OSError as error:
        raise Unwritable(f"{str(path)!r} cannot be written ({reason(error)}); choose another folder or name") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Waits until a file, or what a folder names, is on the disk itself; of a folder where the system can."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, mapping: Mapping[str, Any]) -> None:
    """Writes `mapping` as UTF-8 JSON with sorted keys and a newline at the end, whole or not at all.

    Raises BadInput if the file cannot be written, ValueError on NaN or infinity, which JSON cannot hold.
    """
    text = json.dumps(mapping, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    data = f"{text}\n".encode(errors="backslashreplace")  # a file name's stray bytes become JSON's own \udcxx
    put(path, lambda temporary: temporary.write_bytes(data))


def check_writable(folder: str | Path) -> None:
    """Raises Unwritable unless a file can be made in `folder`, found by making one; call it before the long work."""
    probe = Path(folder) / f".{secrets.token_hex(8)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:
        remedy = "make it first" if isinstance(error, FileNotFoundError) else "choose another"
        raise Unwritable(f"folder {str(folder)!r} cannot be written to ({reason(error)}); {remedy}") from error


def reason(error: BaseException) -> str:
    """Of a file that cannot be read or written, in a few words."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def sha256(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe or a device may never end
        raise BadInput(f"{str(path)!r} is not a regular file; check the path")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}); check the path") from error


def hash_of(x: Tensor) -> str:
    """Of the numbers themselves, before they are rounded to a picture."""
    return hashlib.sha256(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes()).hexdigest()


def put_text(path: Path, text: str) -> None:
    put(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def put_picture(path: Path, picture: Image.Image) -> None:
    # quick rather than small: these are to be looked at, and no result
    put(path, lambda temporary: picture.save(temporary, "PNG", compress_level=1))


def raw_run(path: Path) -> Any:
    """The JSON of a .run.json, of whatever kind of work. Raises BadInput."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; `rerun` takes the .run.json file of a run") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{str(path)!r} is not the .run.json file of a run ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise BadInput(f"{str(path)!r} is not the .run.json file of a run: expected an object with its settings")
    return found


def going_on(out: Path, story: Mapping[str, Any]) -> bool:
    """Whether a training's folder holds a run to go on with, of this story: what its run.json must hold, one level or two of names.

    Raises:
        BadInput: a file in its place, a folder that cannot be written, or that holds another run.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {str(out)!r} is a file; name a folder")
    check_writable(next(folder for folder in [out, *out.absolute().parents] if folder.exists()))
    if not (out / "checkpoint.safetensors").exists():
        return False
    try:
        old = _flat(json.loads((out / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{str(out)!r} holds a checkpoint, but its run.json cannot be read; take another --out"
        ) from error
    changed = [
        f"{name} was {str(old.get((part, name)))[:200]}, is {now}"
        for (part, name), now in _flat(story).items()
        if old.get((part, name)) != now
    ]
    if changed:
        raise BadInput(f"{str(out)!r} holds another run: {'; '.join(changed)}; use another --out")
    return True


def _flat(story: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """(part, name) -> value; the part of what stands on the first level is empty."""
    found = {("", name): value for name, value in story.items() if not isinstance(value, dict)}
    return found | {
        (part, name): value for part, own in story.items() if isinstance(own, dict) for name, value in own.items()
    }
