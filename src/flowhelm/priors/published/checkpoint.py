"""The tensors of somebody's checkpoint. A pickle is opened in a process of its own, and nothing of it but tensors is read.

python checkpoint.py FILE TO ENTRY ...        what that process runs: tensors of the first ENTRY that is there, as safetensors
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

WAIT = 900.0
"""Seconds that reading may take."""
ZIP, PICKLE = b"PK\x03\x04", b"\x80"


def tensors(path: Path, entries: Sequence[str] = ()) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its name, on the CPU, in the dtype that it has there.

    Args:
        path: of torch.save, or safetensors.
        entries: names under which a checkpoint may hold the weights beside an optimiser and others; the first that is there is taken, else
            the whole. `module.` before every name is left out.

    Raises:
        ValueError: no such file; one that wants more than tensors, which only running its code would give; one that holds none.
    """
    if not path.is_file():
        raise ValueError(f"convert: expected a checkpoint, got '{path}', which does not exist; check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"convert: '{path}' is not a readable safetensors file ({error})") from None
    with open(path, "rb") as file:
        head = file.read(4)
    if head != ZIP and head[:1] != PICKLE:
        raise ValueError(
            f"convert: expected a checkpoint of torch.save or a .safetensors file, got '{path}', which is neither; if it was downloaded, "
            "look at it: it may be a web page"
        )
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-P", __file__, str(path.absolute()), str(to), *entries]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
        except subprocess.TimeoutExpired:
            raise ValueError(f"convert: '{path}' was not read within {WAIT:g} seconds; it may be damaged") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise ValueError(
                f"convert: '{path}' cannot be read as tensors alone ({said[-1][:200].rstrip('.')}); have its makers, or someone whom you "
                "trust, save the network's state_dict"
            )
        return load_file(to)


def _read(path: Path, to: Path, entries: Sequence[str]) -> None:
    """What the process does: from a pickle to safetensors, weights only."""
    held: Any = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(held, Mapping):
        held = next((held[entry] for entry in entries if isinstance(held.get(entry), Mapping)), held)
    found = (
        {str(name): each for name, each in held.items() if isinstance(each, Tensor)}
        if isinstance(held, Mapping)
        else {}
    )
    if not found:
        raise ValueError("it holds no tensors by name")
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): each for name, each in found.items()}
    # clones: a checkpoint may hold one tensor under two names, which safetensors does not take
    save_file({name: each.detach().clone().contiguous() for name, each in found.items()}, to)


def _why(error: Exception) -> str:
    """In a line, without torch's advice to run the program that is in the file."""
    text = str(error).strip()
    if program := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it wants to run {program[1]}"
    if "weights_only" in text:
        return "it holds more than tensors, or is damaged"
    return text.splitlines()[0] if text else type(error).__name__


def _main(words: Sequence[str]) -> int:
    try:
        _read(Path(words[0]), Path(words[1]), words[2:])
    except Exception as error:  # of a pickle that wants more, of a file that is cut off
        print(_why(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
