"""Clean pictures to measure with: from a zip archive, a folder, or an .npz of arrays."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as fn

from ... import raster
from ..errors import BadInput
from .atomic import reason, sha256

T = TypeVar("T")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Pictures(NamedTuple):
    """Clean pictures `(n, c, h, w)` in [-1, 1] with their names; `labels` `(n,)` if the data has them.

    `origin` is the name of the archive, file or folder, `sha256` of an archive or file (of a folder: of the files read).
    """

    clean: Tensor
    names: tuple[str, ...]
    labels: Tensor | None
    origin: str
    sha256: str

    def rows(self, start: int, stop: int) -> Pictures:
        labels = None if self.labels is None else self.labels[start:stop]
        return self._replace(clean=self.clean[start:stop], names=self.names[start:stop], labels=labels)


def pictures(
    data: Path, *, channels: int, size: int, folder: str = "", images: int | None, skip: int = 0, spread: bool = False
) -> Pictures:
    """`images` centre crops of `size` x `size`, by name, of the pictures that are large enough.

    Args:
        data: a zip archive or a folder of pictures, or an .npz of arrays `(n, h, w)` or `(n, h, w, c)`, uint8.
        channels: 1 (grey) or 3.
        folder: the part of an archive or a folder (the beginning of the names); of an .npz, the array ("test_images" or the
            only one of pictures if not given). Smaller pictures of an array are padded with black; its labels are read
            if an array named alike ("test_labels") is there.
        images: how many; None for all that are large enough, at least one.
        skip: leave out so many first; below 0: begin so many before the end.
        spread: take them evenly spaced over what is there, not the first (data that is sorted by class).

    Raises:
        BadInput: too few pictures, or data that cannot be read.
    """
    if data.suffix == ".npz":
        return _arrays(data, channels, size, folder, images, skip, spread)
    rows: list[Tensor] = []
    taken: list[str] = []
    digest = hashlib.sha256()
    with _listed(data) as (names, read):
        known = [name for name in names if name.startswith(folder)]
        if spread:  # sizes are looked at without decoding
            known = [name for name in known if min(_opened(name, read(name)).size) >= size]
        for name in _chosen(known, images, skip, spread):
            if len(rows) == images:
                break
            content = read(name)
            crop = _pixels(name, content, channels)
            top, left = ((side - size) // 2 for side in crop.shape[1:])
            if min(top, left) < 0:
                continue
            rows.append(crop[:, top : top + size, left : left + size])
            taken.append(name)
            digest.update(content)
    if len(rows) < (images or 1):
        raise BadInput(
            f"data: expected {images or 'some'} pictures of at least {size} pixels in '{data}'{' ' * bool(folder)}{folder}, "
            f"got {len(rows)}"
        )
    sha = digest.hexdigest() if data.is_dir() else sha256(data)
    return Pictures(_scaled(torch.stack(rows)), tuple(taken), None, data.name, sha)


def whole(data: Path, folder: str, last: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names and colour pictures `(3, h, w)` in [-1, 1] of one folder of an archive or a folder, by name, each in its own size.

    Args:
        folder: its name; "." for the pictures at the top.
        last: so many of the last ones only; None for all.
    """
    with _listed(data) as (names, read):
        inside = lambda name: "/" not in name if folder == "." else name.split("/")[0] == folder  # noqa: E731
        known = [name for name in names if inside(name)][-last if last else 0 :]
        if not known:
            raise BadInput(f"data: expected pictures in {folder}/ of '{data}', found none; see --folder")
        for name in known:
            yield name, _scaled(_pixels(name, read(name), 3))


@contextmanager
def _listed(data: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Names of the pictures, in order, and how to read one."""
    if data.is_dir():
        names = [path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()]
        yield _pictured(names), lambda name: (data / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(data)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"data: expected a zip archive, a folder or an .npz, got '{data}' ({error})") from None
    with archive:
        yield _pictured(archive.namelist()), archive.read


def _pictured(names: Sequence[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(SUFFIXES))


def _opened(name: str, content: bytes) -> Image.Image:
    """Not decoded yet. Raises BadInput; so it does for one that would take too much memory."""
    try:
        image = Image.open(io.BytesIO(content))
        raster.check_cost(raster.BYTES * image.width * image.height)
    except raster.Unusable as error:
        raise BadInput(f"data: {name!r} {error}") from error
    except Exception as error:  # on damaged bytes Pillow raises nearly anything
        raise BadInput(f"data: {name!r} cannot be read ({reason(error)}); take it away, or get a whole copy") from error
    return image


def _pixels(name: str, content: bytes, channels: int) -> Tensor:
    """uint8 `(channels, h, w)`."""
    image = _opened(name, content)
    try:
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except Exception as error:
        raise BadInput(f"data: {name!r} is damaged ({reason(error)}); take it away, or get a whole copy") from error
    return torch.from_numpy(pixels.copy()).view(*pixels.shape[:2], channels).permute(2, 0, 1)


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def _arrays(data: Path, channels: int, size: int, name: str, images: int | None, skip: int, spread: bool) -> Pictures:
    try:
        with np.load(data, allow_pickle=False) as f:
            for each in f.zip.infolist():  # told before it is unpacked
                raster.check_cost(each.file_size)
            shapes = {key: f[key].shape for key in f.files if f[key].dtype == np.uint8 and f[key].ndim >= 3}
            name = name or ("test_images" if "test_images" in shapes else next(iter(shapes), ""))
            if name not in shapes:
                raise ValueError(f"no uint8 array '{name}' of pictures, but {', '.join(shapes) or 'none'}")
            array, other = f[name], name.replace("images", "labels")
            labels = f[other] if other != name and other in f.files else None
    except Exception as error:  # on damaged bytes NumPy and zipfile raise nearly anything
        raise BadInput(f"data: expected an .npz of uint8 pictures, got '{data}' ({reason(error)})") from None
    index = _chosen(list(range(len(array))), images, skip, spread)[:images]
    if len(index) < (images or 1):
        raise BadInput(f"data: expected {images} pictures in {name} of '{data}', got {len(index)}")
    rows = torch.from_numpy(array[index])
    rows = rows[:, None] if rows.ndim == 3 else rows.permute(0, 3, 1, 2)
    if rows.shape[1] != channels:
        raise BadInput(f"data: expected pictures of {channels} channels, got {rows.shape[1]} in {name} of '{data}'")
    across, down = (size - rows.shape[-1], size - rows.shape[-2])  # below 0: cropped
    rows = fn.pad(rows, (across // 2, across - across // 2, down // 2, down - down // 2))
    return Pictures(
        _scaled(rows),
        tuple(f"{name}/{i}" for i in index),
        None if labels is None else torch.from_numpy(labels[index]).long(),
        data.name,
        sha256(data),
    )


def _chosen(known: list[T], images: int | None, skip: int, spread: bool) -> list[T]:
    """Candidates in order; the first ones, or evenly spaced ones."""
    known = known[skip:]
    if not spread or images is None or len(known) <= images:
        return known
    return [known[int((i + 0.5) * len(known) / images)] for i in range(images)]
