"""What a method costs, counted while it runs."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...flow import Flow, Wrapped
from ...guide.counted import Count, Counted
from ...path import at


@dataclass
class Tally(Count):
    """Of one run, beside the network's calls.

    Attributes:
        backward_rows: rows that were differentiated, one per batch row and call; decoder: calls of a decoder.
        seconds: wall clock; mebibytes: peak of memory above what was in use before, NaN where it cannot be told.
    """

    backward_rows: int = 0
    decoder: int = 0
    seconds: float = 0.0
    mebibytes: float = float("nan")

    def evaluations(self, pictures: int) -> float:
        """Evaluations of one picture, one backward pass counted as two: what a budget is given in."""
        return (self.rows + 2 * self.backward_rows) / pictures


@dataclass(frozen=True, eq=False)
class Metered(Counted):
    """`guide.counted`, which also counts the decoder's calls and the rows that are differentiated."""

    count: Tally = field(default_factory=Tally)

    def decode(self, clean: Tensor) -> Tensor:
        self.count.decoder += not self.pixels
        return self.flow.decode(clean)

    def _differentiated(self, gradient: Tensor) -> None:
        super()._differentiated(gradient)
        self.count.backward_rows += len(gradient)


@contextmanager
def watched(tally: Tally, device: torch.device) -> Iterator[None]:
    """Puts the seconds and the peak of memory of the block into the tally."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: float | None = torch.cuda.memory_allocated(device) / 2**20
    else:
        before = _reset_peak()
    began = time.perf_counter()
    try:
        yield
    finally:
        if gpu:
            torch.cuda.synchronize(device)
        tally.seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else _status("VmHWM")
        if before is not None and peak is not None:
            tally.mebibytes = max(0.0, peak - before)


def _reset_peak() -> float | None:
    """MiB in use by this process, its peak set to that; None where the system has no such thing (it is Linux's)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide what is needed anew
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return None


def _status(name: str) -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) / 1024
    return None


@dataclass(frozen=True, eq=False)
class Free(Wrapped):
    """A flow in the place of `flow` whose network costs nothing: that of N(0, I). What a method asks of it is counted."""

    flow: Flow

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        a = at(self.path, t, x)
        # at a path's singular end the rate of sigma is infinite
        return torch.nan_to_num((a.alpha * a.d_alpha + a.sigma * a.d_sigma) / (a.alpha**2 + a.sigma**2)) * x
