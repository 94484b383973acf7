"""How long a piece of work will take, and how much memory: said before it starts, if that is long."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch

from .fitting import GIB, Settings, Task

LONG = 10.0
"""Seconds; of shorter work nothing is said."""


def seconds_of(call: Callable[[], object], device: torch.device, often: float = 2.0) -> float:
    """Of a call that is made `often`: of a second one where the first did not take long, since it may have set things up, and the
    whole would be long."""

    def once() -> float:
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    first = once()
    return min(first, once()) if first < 1 and first * often >= LONG else first


def sentence(seconds: float, evaluations: float, task: Callable[[], Task]) -> str:
    """What is said of work that is long, else nothing; `task` is what its memory is counted of."""
    if seconds < LONG:
        return ""
    memory = ""
    with suppress(Exception):  # what cannot be walked without data
        memory = f" and {task().footprint(Settings()).peak / GIB:.1f} GiB of memory"
    return f"this takes about {_long(seconds)}{memory} ({evaluations:.0f} evaluations of the network)"


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{timedelta(seconds=seconds) / timedelta(hours=1):.1f} hours"
