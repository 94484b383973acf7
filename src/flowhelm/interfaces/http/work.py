"""What the process of `flowhelm serve` does: it holds the prior, reads what was uploaded, and restores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ... import raster
from ...app.errors import BadInput, TooLarge
from ...app.files import pictures
from ...app.restore.problem import channels
from ...app.restore.request import PictureRequest
from ...app.restore.restorer import Restored, Restorer
from ...app.run import Run
from ..worker import left


class Unreadable(BadInput):
    """An upload that is no picture, or a damaged one."""


Job = tuple[Mapping[str, Any], Mapping[str, bytes]]
"""A `PictureRequest` as JSON, and the bytes of the uploads by the names of the form."""


class Made(NamedTuple):
    """The PNG, and what is known of it, as JSON."""

    png: bytes
    settings: dict[str, Any]
    result: dict[str, Any]


def opened(opening: Mapping[str, Any], limit: int, memory: float) -> Callable[[Job], Run[Made]]:
    """The prior is loaded; what restores with it is returned.

    Args:
        opening: of `ModelRequest`. limit: pixels of the largest picture. memory: bytes that this process may hold.
    """
    restorer = Restorer(**opening, limit=limit)

    def restored(job: Job) -> Run[Made]:
        asked, uploads = job
        request = PictureRequest.of(asked, "restore")
        settings = {name: getattr(request, name) for name in PictureRequest.model_fields}
        with raster.within(left(memory), "ask for a server with more memory"):
            given = {name: _file(name, data, limit) for name, data in uploads.items() if name != "picture"}
            settings["operator_options"] = {**request.operator_options, **given}
            colours = channels(request.operator, request.simulate)
            picture = _picture("the picture", uploads["picture"], colours, limit)
            ready = restorer.prepare(picture, **settings)
        made = yield from restorer.events(ready)
        return _plain(made)

    return restored


def _plain(made: Restored) -> Made:
    settings = {**made.settings, "prior": Path(made.settings["prior"]).stem}  # no path of this machine
    settings.pop("photo")
    result = {
        "sha256": made.sha256, "residual": made.residual, "evaluations": made.evaluations, "seconds": made.seconds, **made.scores,
    }  # fmt: skip
    return Made(made.png(), settings, result)


def _picture(name: str, data: bytes, channels: int, limit: int) -> pictures.Picture:
    try:
        return pictures.decode(data, name, channels=channels, limit=limit)
    except BadInput as error:
        large = isinstance(error, TooLarge) or isinstance(error.__cause__, Image.DecompressionBombError)
        raise (TooLarge if large else Unreadable)(str(error)) from error


def _file(name: str, data: bytes, limit: int) -> Image.Image | np.ndarray:
    """An uploaded mask or kernel: a picture, or an array of NumPy (never unpickled)."""
    if not data.startswith(b"\x93NUMPY"):
        _picture(name, data, 1, limit)  # says what is wrong, and holds the limit before decoding
        return Image.open(BytesIO(data))
    try:
        array: np.ndarray = np.load(BytesIO(data), allow_pickle=False, max_header_size=10_000)
    except Exception as error:  # on damaged bytes NumPy raises nearly anything
        reason = " ".join(str(error).split())
        raise Unreadable(f"{name}: the array cannot be read ({reason}); save it again") from error
    if array.dtype.kind not in "biuf" or not array.size:
        raise Unreadable(f"{name}: expected an array of real numbers, got {array.dtype} of shape {array.shape}")
    return array
