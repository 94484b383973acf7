"""Files that hold many pictures: tar archives (WebDataset) and stacks of slices (NumPy, HDF5), each picture by a name of its own.

    photos.tar:lamps/0001.png       a member, by its name in the archive
    scan.npy:0012                   slice 12 along the first axis
    scan.npz:volume/0012            of the array `volume`
    scan.h5:raw/volume/0012         of the data set `raw/volume`

Slices are (h, w), which is grey, (h, w, 1 or 3) or (1 or 3, h, w), uint8 or uint16; of any other type the values of black and white
must be said. Nothing is unpickled, nothing is unpacked to disk, and a file of another place that HDF5 may refer to is not read.
"""

import hashlib
import json
import posixpath
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ... import raster
from ...raster import Raster
from ..errors import BadInput
from . import atomic as files
from . import pictures as images
from .atomic import READ, reason
from .names import below
from .pictures import Picture

STACKS = (".npy", ".npz", ".h5", ".hdf5")
SUFFIXES = (".tar", *STACKS)
_NAMED = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES))})):(.+)", re.DOTALL | re.IGNORECASE)
_NATURAL = {"u1": 255, "u2": 65535}
MANY = 1_000_000
"""Pictures in one file, above which it is taken for a mistake."""
LIMIT = 300_000_000


class Found(NamedTuple):
    """Names of the pictures in a file, and what is wrong with the rest of it, if anything."""

    names: list[str]
    fault: str | None = None


def is_many(photo: str | Path) -> bool:
    """Whether it is a file that holds many pictures, or names a part of one; the file need not be there."""
    return Path(photo).suffix.lower() in SUFFIXES or (
        not Path(photo).exists() and _NAMED.fullmatch(str(photo)) is not None
    )


def split(photo: str) -> tuple[Path, str] | None:
    """The file and the name in it; None for a picture in a file of its own."""
    if Path(photo).exists() or not (found := _NAMED.fullmatch(photo)):
        return None
    return Path(found[1]), found[2]


def members(photo: str, span: Sequence[float] | None = None) -> Found:
    """The pictures in a file, or in the part of it that `photo` names; never raises."""
    path, part = split(photo) or (Path(photo), "")
    try:
        if path.suffix.lower() == ".tar":
            index, fault = _index(*_version(path))
            if part:
                return Found([part])
            return Found(list(index), fault or (None if index else "holds no picture"))
        return Found(_slices(path, part, span))
    except BadInput as error:
        return Found([], str(error))


def read(
    photo: str, *, channels: int = 3, span: Sequence[float] | None = None, limit: int = LIMIT, page: int | None = None
) -> Picture:
    """A picture by its path or its name in a file of many, as `images.read`; `span`: the values of black and white in a stack.

    Raises:
        BadInput: as `images.read`, and for values outside the span.
    """
    found = split(photo)
    if found is None:
        if (
            Path(photo).suffix.lower() in SUFFIXES and Path(photo).is_file()
        ):  # as a whole it stands for what is wrong with it
            raise BadInput(f"{photo!r} {members(photo, span).fault or 'holds many pictures; name one of them'}")
        return images.read(photo, channels=channels, limit=limit, page=page)
    with _named(photo):
        if found[0].suffix.lower() != ".tar":
            return _picture(_slice(*found, span), span, channels)
        data = _member(*found)
    return images.decode(data, repr(photo), channels=channels, limit=limit, suffix=Path(photo).suffix, page=page)


def sha256(photo: str) -> str:
    """Of a picture's bytes: of its own file, of the member, or of the slice's type, shape and values."""
    found = split(photo)
    if found is None:
        return files.sha256(Path(photo))
    with _named(photo):
        if found[0].suffix.lower() == ".tar":
            return hashlib.sha256(_member(*found)).hexdigest()
        values = np.ascontiguousarray(_slice(*found, (0, 1)))  # of any type: the span is not of the bytes
    head = json.dumps([values.dtype.str, values.shape]).encode()
    return hashlib.sha256(head + b"\0" + values.tobytes()).hexdigest()


def size(photo: str) -> tuple[object, ...] | None:
    """What pictures have in common that may run together, told without decoding: size and mode; None if it cannot be told."""
    try:
        found = split(photo)
        if found is None or found[0].suffix.lower() == ".tar":
            file: Any = photo if found is None else BytesIO(_member(*found))
            with Image.open(file) as image:
                return image.height, image.width, image.mode
        values = _slice(found[0], found[1], (0, 1))
        return *values.shape, values.dtype.str
    except Exception:  # damaged bytes: reading says what is wrong with them
        return None


@contextmanager
def _named(photo: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise type(error)(f"{photo!r} {error}") from error.__cause__


def _version(path: Path) -> tuple[str, int, int]:
    """What a file's index is remembered by."""
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read ({reason(error)}); check the path") from error
    return str(path), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _index(path: str, changed: int, length: int) -> tuple[dict[str, tuple[int, int]], str | None]:
    """Where the pictures of an archive are: name -> first byte and length; and what is wrong with it."""
    places: dict[str, tuple[int, int]] = {}
    strange: str | None = None
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count > MANY:
                    return places, f"holds more than {MANY} members; divide it"
                name = posixpath.normpath(member.name)
                inner = posixpath.basename(name)
                usual = Path(inner).suffix.lower() in READ and not inner.startswith(".")
                if not member.isreg() or member.issparse() or not usual:
                    continue
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                try:
                    below(name)
                except BadInput as error:  # the others are pictures all the same
                    strange = strange or str(error)
                else:
                    places[name] = member.offset_data, member.size
            file.seek(archive.offset)
            if file.read(512) != bytes(512):  # which tarfile takes for the end
                return places, "ends without the mark of its end, so that members may be missing; get the whole of it"
    except Exception as error:  # of damaged bytes: tarfile's own, and nearly any other
        return (
            places,
            f"is truncated or damaged, or no tar archive without compression ({reason(error)}); get it whole",
        )
    return places, strange


def _member(path: Path, name: str) -> bytes:
    places, fault = _index(*_version(path))
    if posixpath.normpath(name) not in places:
        raise BadInput("is not there" + (f": the archive {fault}" if fault else ""))
    first, length = places[posixpath.normpath(name)]
    try:
        with open(path, "rb") as file:
            file.seek(first)
            return file.read(min(length, 2**31))
    except OSError as error:
        raise BadInput(f"cannot be read ({reason(error)}); check the path") from error


def _slices(path: Path, part: str, span: Sequence[float] | None) -> list[str]:
    with _arrays(path) as arrays:
        name = part.strip("/")
        whole, _, last = name.rpartition("/") if path.suffix.lower() != ".npy" else ("", "", name)
        if last.isdecimal() and name not in arrays and (whole in arrays or path.suffix.lower() == ".npy"):
            return [name]
        fitting = [key for key in arrays if len(_shape(arrays[key])) in (3, 4)]
        if name:
            fitting = [key for key in fitting if key == name]
        if len(fitting) != 1:
            listed = ", ".join(repr(f"{path.name}:{key}") for key in list(arrays)[:20]) or "none"
            raise BadInput(f"expected one array of slices, (n, h, w) or (n, h, w, 3); name one of {listed}")
        (key,) = fitting
        below(f"{key}/0" if key else "0")
        array = arrays[key]
        _check(array, span)
        if (count := _shape(array)[0]) > MANY:
            raise BadInput(f"holds {count} slices, more than {MANY}; divide it")
        if not count:
            raise BadInput("holds no slice")
        width = max(4, len(str(count - 1)))
        return [f"{key}/{k:0{width}}".lstrip("/") for k in range(count)]


def _slice(path: Path, part: str, span: Sequence[float] | None) -> np.ndarray:
    key, _, number = part.strip("/").rpartition("/")
    with _arrays(path) as arrays:
        array = arrays.get(key)
        if array is None or not number.isdecimal() or len(_shape(array)) not in (3, 4) or int(number) >= len(array):
            raise BadInput("is not there: the array has no such slice")
        _check(array, span)
        return np.asarray(array[int(number)])


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of a file by name (one of .npy has none), read as they are sliced."""
    version, suffix = _version(path), path.suffix.lower()
    try:
        if suffix == ".npy":
            yield {"": _mapped(*version)}
        elif suffix == ".npz":
            yield _Unpacked(version)
        else:
            import h5py  # type: ignore[import-untyped,unused-ignore]  # a tenth of a second

            with h5py.File(path, "r") as file:
                yield _datasets(file)
    except BadInput:
        raise
    except raster.Unusable as error:
        raise images.bad(error) from error
    except (
        Exception
    ) as error:  # damaged bytes: h5py and NumPy raise nearly anything, MemoryError for a shape that is a lie
        raise BadInput(f"is damaged or no {suffix} file ({reason(error)}); get a whole copy of it") from error


class _Unpacked(Mapping[str, Any]):
    """Arrays of a .npz by name, unpacked when asked for."""

    def __init__(self, version: tuple[str, int, int]):
        self.version = version
        with np.load(version[0], allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("no archive of arrays")
            self.names = list(file.files)

    def __getitem__(self, key: str) -> Any:
        if key not in self.names:
            raise KeyError(key)
        return _unpacked(*self.version, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@lru_cache(maxsize=1)
def _unpacked(path: str, changed: int, length: int, key: str) -> np.ndarray:
    with zipfile.ZipFile(path) as packed:  # told before it is unpacked
        raster.check_cost(2.0 * packed.getinfo(key if key in packed.namelist() else f"{key}.npy").file_size)
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[key])


@lru_cache(maxsize=8)
def _mapped(path: str, changed: int, length: int) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _datasets(file: Any) -> dict[str, Any]:
    """Those that lie in this very file; links are not followed."""
    found: dict[str, Any] = {}

    def add(name: str, each: Any) -> None:
        if hasattr(each, "shape") and not each.external and not each.is_virtual:
            found[name] = each

    file.visititems(add)
    return found


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(getattr(array, "shape", ()) or ())


def _check(array: Any, span: Sequence[float] | None) -> None:
    """Of the whole stack, before any slice of it is read."""
    shape, kind = _shape(array), np.dtype(array.dtype)
    one = shape[1:]
    if len(shape) == 3 and shape[-1] in (1, 3):
        raise BadInput(f"is one picture of shape {shape}; expected slices, (n, h, w) or (n, h, w, 3)")
    if len(one) == 3 and one[-1] not in (1, 3) and one[0] not in (1, 3):
        raise BadInput(f"has slices of shape {one}; expected (h, w), (h, w, 3) or (3, h, w)")
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise BadInput(f"holds values of type {kind}; expected uint8, uint16, or float with a range")
    if span is None and kind.str[1:] not in _NATURAL:
        raise BadInput(f"holds values of type {kind}; say which of them are black and white: --range 0,1, say")
    read = max(np.prod(one, dtype=float), np.prod(getattr(array, "chunks", None) or (0,), dtype=float))
    raster.check_cost((kind.itemsize + raster.BYTES) * read)  # a slice, or the chunk that it is packed in
    if np.prod(one, dtype=float) > LIMIT or not all(shape[1:]):
        raise BadInput(f"has slices of shape {one}, which is none or more than {LIMIT // 10**6} million values")


def _picture(values: np.ndarray, span: Sequence[float] | None, channels: int) -> Picture:
    """A slice, with the numbers of a picture file of the same values."""
    kind = values.dtype.str[1:]
    if values.ndim == 2:
        values = values[..., None]
    elif values.shape[-1] not in (1, 3):
        values = values.transpose(1, 2, 0)
    if span is not None:
        values = _spanned(values.astype(np.float64), *span)
    found = images.picture(Raster(values, None, _NATURAL[kind] if span is None else 1, None, {}), channels)
    return found._replace(depth=8 if kind == "u1" else 16)


def _spanned(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """From `low` (black) and `high` (white) to [0, 1]."""
    if not np.isfinite(values).all():
        raise BadInput("holds NaN or infinite values; mend them first")
    least, most, slack = float(values.min()), float(values.max()), 1e-4 * (high - low)
    if least < low - slack or most > high + slack:
        raise BadInput(f"holds values from {least:g} to {most:g}; expected {low:g} to {high:g}; state a wider --range")
    return (values - low) / (high - low)
