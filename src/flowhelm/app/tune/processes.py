"""A fine-tuning by several processes, which `accelerate launch` or torchrun has started: see `flowhelm.learning.together`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ...learning.together import gathered, mine, place
from ..errors import BadInput
from .state import State


def joined(device: str) -> str:
    """Joins the others, if there are any; returns the device of this process: what was asked for, or one of its kind for each.

    Raises:
        BadInput: accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    try:
        from accelerate import PartialState  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise BadInput("several processes need accelerate, which is not here; pip install 'flowhelm[train]'") from error
    return str(PartialState(cpu=torch.device(device).type == "cpu").device)


@contextmanager
def desk(out: Path) -> Iterator[Path]:
    """Where this process writes: the first one into the run's folder, the others into one that nobody keeps."""
    if place()[0] == 0:
        yield out
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def save(state: State, path: Path) -> None:
    """The checkpoint, with the streams of all rows, where each process has drawn from its own. All processes call it together."""
    if place()[1] > 1:
        state.noise.restore(gathered(state.noise.rows(mine(len(state.noise))).state()))
    state.save(path)
