"""What the process behind the page does: it restores and steers by settings that cross as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...app.restore.request import RestoreSettings
from ...app.run import Run
from ...app.steer.request import SteerSettings
from ..worker import left

REMEDY = "start flowhelm ui with more --memory"
Job = Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""The settings of restorations, one after the other; or of one that steers."""


def opened(memory: float) -> Callable[[Job], Run[None]]:
    """A prior is opened anew for each run; what takes long to import is there. Runs may take so many bytes of `memory`."""
    from ... import raster
    from ...app.steer.run import steer
    from .requests import restored

    def made(job: Job) -> Run[None]:
        with raster.within(left(memory), REMEDY):  # this process does nothing else
            if isinstance(job, Mapping):
                yield from steer(SteerSettings.of(job, "steer"))
            else:
                yield from restored([RestoreSettings.of(each, "restore") for each in job])

    return made
