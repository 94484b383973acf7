"""What the process behind the page does: it restores and steers by settings that cross as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...app.restore.request import RestoreSettings
from ...app.run import Run
from ...app.steer.request import SteerSettings

Job = Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""The settings of restorations, one after the other; or of one that steers."""


def opened() -> Callable[[Job], Run[None]]:
    """A prior is opened anew for each run; what takes long to import is there."""
    from ...app.steer.run import steer
    from .requests import restored

    def made(job: Job) -> Run[None]:
        if isinstance(job, Mapping):
            yield from steer(SteerSettings.of(job, "steer"))
        else:
            yield from restored([RestoreSettings.of(each, "restore") for each in job])

    return made
