"""Clean pictures to measure and restore: from a zip archive, a folder, or an .npz of arrays."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

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
    data: Path, *, channels: int, size: int, folder: str = "", images: int, skip: int = 0, spread: bool = False
) -> Pictures:
    """`images` centre crops of `size` x `size`, by name, of the pictures that are large enough.

    Args:
        data: a zip archive or a folder of pictures, or an .npz of arrays `(n, h, w)` or `(n, h, w, c)`, uint8.
        channels: 1 (grey) or 3.
        folder: the part of an archive or a folder (the beginning of the names); of an .npz, the array ("test_images" or the
            only one of pictures if not given). Smaller pictures of an array are padded with black; its labels are read
            if an array named alike ("test_labels") is there.
        skip: leave out so many first; below 0: begin so many before the end.
        spread: take them evenly spaced over what is there, not the first (data that is sorted by class).

    Raises:
        ValueError: too few pictures, or data that cannot be read.
    """
    if data.suffix == ".npz":
        return _arrays(data, channels, size, folder, images, skip, spread)
    if data.is_dir():
        names = [p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()]
        return _files(data, names, lambda n: (data / n).read_bytes(), channels, size, folder, images, skip, spread)
    try:
        with zipfile.ZipFile(data) as z:
            return _files(data, z.namelist(), z.read, channels, size, folder, images, skip, spread)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"data: expected a zip archive, a folder or an .npz, got '{data}' ({error})") from None


def _files(
    data: Path,
    names: list[str],
    read: Callable[[str], bytes],
    channels: int,
    size: int,
    folder: str,
    images: int,
    skip: int,
    spread: bool,
) -> Pictures:
    from PIL import Image

    known = sorted(n for n in names if n.startswith(folder) and n.lower().endswith(SUFFIXES))
    if spread:  # sizes are looked at without decoding
        known = [n for n in known if min(Image.open(io.BytesIO(read(n))).size) >= size]
    rows: list[Tensor] = []
    taken: list[str] = []
    digest = hashlib.sha256()
    for name in _chosen(known, images, skip, spread):
        content = read(name)
        picture = Image.open(io.BytesIO(content))
        top, left = (picture.height - size) // 2, (picture.width - size) // 2
        if min(top, left) < 0 or len(rows) == images:
            continue
        pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
        crop = torch.from_numpy(pixels[top : top + size, left : left + size].copy())
        rows.append(crop.permute(2, 0, 1) if channels == 3 else crop[None])
        taken.append(name)
        digest.update(content)
    if len(rows) < images:
        raise ValueError(
            f"data: expected {images} pictures of at least {size} pixels in '{data}'{' ' * bool(folder)}{folder}, got {len(rows)}"
        )
    sha = digest.hexdigest() if data.is_dir() else sha256(data)
    return Pictures(torch.stack(rows).float() / 127.5 - 1, tuple(taken), None, data.name, sha)


def _arrays(data: Path, channels: int, size: int, name: str, images: int, skip: int, spread: bool) -> Pictures:
    try:
        with np.load(data, allow_pickle=False) as f:
            shapes = {key: f[key].shape for key in f.files if f[key].dtype == np.uint8 and f[key].ndim >= 3}
            name = name or ("test_images" if "test_images" in shapes else next(iter(shapes), ""))
            if name not in shapes:
                raise ValueError(f"no uint8 array '{name}' of pictures, but {', '.join(shapes) or 'none'}")
            array, other = f[name], name.replace("images", "labels")
            labels = f[other] if other != name and other in f.files else None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"data: expected an .npz of uint8 pictures, got '{data}' ({error})") from None
    index = _chosen(list(range(len(array))), images, skip, spread)[:images]
    if len(index) < images:
        raise ValueError(f"data: expected {images} pictures in {name} of '{data}', got {len(index)}")
    rows = torch.from_numpy(array[index])
    rows = rows[:, None] if rows.ndim == 3 else rows.permute(0, 3, 1, 2)
    if rows.shape[1] != channels:
        raise ValueError(f"data: expected pictures of {channels} channels, got {rows.shape[1]} in {name} of '{data}'")
    across, down = (size - rows.shape[-1], size - rows.shape[-2])  # below 0: cropped
    rows = fn.pad(rows, (across // 2, across - across // 2, down // 2, down - down // 2))
    return Pictures(
        rows.float() / 127.5 - 1,
        tuple(f"{name}/{i}" for i in index),
        None if labels is None else torch.from_numpy(labels[index]).long(),
        data.name,
        sha256(data),
    )


def _chosen(known: list, images: int, skip: int, spread: bool) -> list:
    """Candidates in order; the first ones, or evenly spaced ones."""
    known = known[skip:]
    if not spread or len(known) <= images:
        return known
    return [known[int((i + 0.5) * len(known) / images)] for i in range(images)]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
