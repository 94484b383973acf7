"""Names of priors, told apart without opening anything: this file needs no torch, so that what is misspelt is said at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

NAMES = ("photos", "fashion", "aerial", "animals")
"""Of the priors that ship with the package."""
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Suffixes of files that may run any code when they are read."""


def pipeline(model: object) -> bool:
    """Whether this is the name of a pipeline: a folder, or a name of the hub such as "stabilityai/sdxl-turbo"; not a file."""
    if not isinstance(model, str | Path):
        return False
    place = Path(model)
    if place.is_dir():
        return True
    fits = isinstance(model, str) and re.fullmatch(r"\w[\w.-]*/[\w.-]+", model)
    return bool(fits) and place.suffix.lower() not in (".safetensors", ".py", *PICKLES) and not place.exists()


def check(name: str | Path) -> None:
    """Raises ValueError for the name of a prior that is neither one that ships nor a file; pipelines are not looked at."""
    if name in NAMES or Path(name).is_file() or Path(name).suffix.lower() in PICKLES:
        return
    raise ValueError(
        f"prior: expected one of {', '.join(NAMES)} or a .safetensors file (or, where pipelines are taken, a folder or a hub name "
        f"org/name), got '{name}'; {nearest(str(name), NAMES)}"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names := list(names), 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"it is one of {', '.join(names)}"
