"""The run folder: a sub-folder for each run, with all that it read and wrote; uploads, and the history.

`RUNS/2026-11-21_113305_3fa2c1/` is a run, by its date and the beginning of a hash of its settings. In it lie the photograph, as it was
uploaded, the mask, and what the command line would write: NAME.restored.png, NAME.strip.png, NAME.run.json. So `flowhelm rerun` takes any
of them, and what the command line writes there (`--out RUNS/mine/photo.restored.png`) is in the history, too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...app.errors import BadInput
from ...app.files.atomic import raw_run
from ...app.files.pictures import read as read_picture
from ...app.files.pictures import to_pil
from ...app.restore.record import RestoreFile, get_run

if TYPE_CHECKING:
    from ...app.steer.record import RunFile

SHOWN = 1024  # pixels of the longer side, of pictures that are only looked at
LISTED = 300
END = ".run.json"


class Run(NamedTuple):
    """A run of the history: `name` is that of its .run.json below the run folder."""

    name: str
    path: Path
    file: RestoreFile | RunFile

    @property
    def settings(self) -> Any:
        """`RestoreSettings` or `SteerSettings`."""
        return self.file.settings

    @property
    def steered(self) -> bool:
        return not isinstance(self.file, RestoreFile)

    @property
    def when(self) -> str:
        return datetime.fromtimestamp(self.path.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")

    @property
    def picture(self) -> Path:
        """The result; its folder may have been moved since."""
        out = Path(self.settings.out or "")
        return self.path.with_name(f"{out.name}.best.png" if self.steered else out.name)

    @property
    def what(self) -> str:
        """Of the result, for people."""
        return Path(self.settings.prior).stem if self.steered else self.photo.name

    @property
    def photo(self) -> Path:
        return self.path.with_name(Path(self.settings.photo or "").name)

    @property
    def result(self) -> Any:
        """What it cost, and its scores; of several steered pictures those of the first."""
        return self.file.result if isinstance(self.file, RestoreFile) else self.file.result.pictures[0]


# --- uploads ---


def safe(name: str) -> str:
    """A name for a file in a run's folder: no folders, nothing hidden, and no characters that a shell or a browser reads."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^\w .()+-]", "_", last).lstrip(". ")[-80:].strip() or "picture"


def checked(path: str | Path, megapixels: float) -> tuple[int, int]:
    """Width and height of an uploaded picture, from its header: nothing is decoded.

    Raises:
        BadInput: no picture that the command line would read, or one of too many pixels.
    """
    name = safe(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("JPEG", "PNG", "WEBP", "TIFF")) as image:
                width, height = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{name!r} is not a picture that can be read; expected JPEG, PNG, WebP or TIFF") from error
    except Image.DecompressionBombError as error:
        raise BadInput(
            f"{name!r} has far too many pixels, and the limit here is {megapixels:g} megapixels; scale it down first"
        ) from error
    if width * height > megapixels * 1e6:
        raise BadInput(
            f"{name!r} has {width * height / 1e6:.4g} megapixels, and the limit here is {megapixels:g}; scale it down first"
        )
    return width, height


def shown(path: str | Path) -> Image.Image:
    """A picture as the command line sees it (upright, in sRGB), small enough to be looked at."""
    picture = to_pil(read_picture(path).pixels).convert("RGB")
    picture.thumbnail((SHOWN, SHOWN))
    return picture


def mask_of(edited: Mapping[str, Any] | None, size: tuple[int, int]) -> Image.Image | None:
    """Of what was painted: black (missing) wherever there is any paint, white (kept) elsewhere; None if nothing was.

    Args:
        edited: what the editor says; size: width and height of the photograph.
    """
    layers = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in (edited or {}).get("layers", ())]
    painted = np.logical_or.reduce([layer > 0 for layer in layers]) if layers else np.zeros((1, 1), bool)
    if not painted.any():
        return None
    mask = Image.fromarray(np.where(painted, 0, 255).astype(np.uint8))
    return mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST)


# --- a new run ---


def new(runs: Path, settings: Mapping[str, Any]) -> Path:
    """An empty folder for a run; two of the same second and the same settings have two folders."""
    short = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:6]
    stem = f"{datetime.now():%Y-%m-%d_%H%M%S}_{short}"
    for i in range(1000):
        folder = runs / (stem + f"-{i + 1}" * (i > 0))
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput(f"the run folder {str(runs)!r} cannot be written to ({error.strerror})") from error
        return folder
    raise BadInput(f"the run folder {str(runs)!r} is full of runs of this very second; try again")


def take(upload: str | Path, folder: Path, name: str | None = None) -> Path:
    """A copy of an upload, the same bytes, in a run's folder."""
    target = folder / (name or safe(Path(upload).name))
    shutil.copyfile(upload, target)
    return target


def give_up(folder: Path) -> None:
    """Removes a run's folder in which there is nothing but what was uploaded."""
    shutil.rmtree(folder, ignore_errors=True)


# --- the history ---


def inside(runs: Path, name: str) -> Path:
    """The file `name` below the run folder.

    Raises:
        BadInput: it is elsewhere (by `..`, by a link, as an absolute path), or not there.
    """
    try:
        path = (runs / name).resolve()
        if path.is_relative_to(runs.resolve()) and path.is_file():
            return path
    except (OSError, ValueError):
        pass
    raise BadInput(f"there is no run {name!r} in the run folder; look the history up again")


def run(runs: Path, name: str) -> Run:
    """The run whose .run.json has that name. Raises BadInput for any other file."""
    path = inside(runs, name)
    settings = raw_run(path)["settings"]
    if "photo" in settings:
        return Run(name, path, get_run(path))
    if "reward" not in settings:
        raise BadInput(f"{name!r} is not the .run.json file of a run; look the history up again")
    from ...app.steer.record import read

    found = Run(name, path, read(path))
    if not found.file.result.pictures:  # type: ignore[union-attr]
        raise BadInput(f"{name!r} is of a run that made no picture")
    return found


def history(runs: Path) -> list[Run]:
    """The newest first, at most `LISTED`; files that are none are passed over."""
    dated = []
    for path in runs.glob("*/*.run.json"):
        try:
            dated.append((path.stat().st_mtime, path.relative_to(runs).as_posix()))
        except OSError:  # removed meanwhile
            continue
    found = []
    for _, name in sorted(dated, reverse=True)[:LISTED]:
        try:
            each = run(runs, name)
            inside(runs, each.picture.relative_to(runs).as_posix())
        except ValueError:
            continue
        found.append(each)
    return found


def same_picture(found: Sequence[Run]) -> None:
    """Raises BadInput unless all are restorations of the same bytes."""
    if any(each.steered for each in found):
        raise BadInput(
            "expected restorations to compare; a steered picture has no photograph in common with another run"
        )
    if len({each.file.inputs.get("photo sha256") for each in found}) > 1:
        raise BadInput(
            f"expected runs of the same picture, got {', '.join(dict.fromkeys(each.what for each in found))} (by their bytes)"
        )
