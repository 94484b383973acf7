"""Files that an operator is made from: whatever is wrong with one is a ValueError that names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .. import raster


@contextmanager
def reading(who: str, path: str) -> Iterator[None]:
    """Turns anything that goes wrong inside into a ValueError of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{who}: {path!r} does not exist; check the path") from error
    except raster.Unusable as error:
        raise ValueError(f"{who}: {path!r} cannot be read: it {error}") from error
    except Exception as error:  # on damaged bytes Pillow, NumPy and zipfile raise nearly anything
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ValueError(
            f"{who}: {path!r} cannot be read ({' '.join(reason.split())[:200]}); get a whole copy of it"
        ) from error


def known(who: str, path: str) -> np.ndarray:
    """A mask as (h, w) in [0, 1], 0 = missing: by its transparency if it has any, else by its brightness."""
    values, alpha = _read(who, path)
    return values if alpha is None else alpha


def trace(who: str, path: str) -> np.ndarray:
    """A kernel drawn as a picture, (h, w): where all of one brightness, by its transparency."""
    values, alpha = _read(who, path)
    if alpha is None:
        return values
    if values.min() == values.max():
        return alpha
    return values * alpha


def _read(who: str, path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Brightness and, where some is not opaque, alpha, both (h, w) float32; upright."""
    with reading(who, path):
        with open(path, "rb") as file:
            raster.check_cost(os.fstat(file.fileno()).st_size)
            found = raster.load(file.read(), path[-4:])
        values = found.values.astype(np.float32) / np.float32(found.top)
        if found.values.dtype.kind == "f" and values.size and np.isfinite(values).all() and values.max() > 1:
            values = values / np.float32(255)  # of 8-bit levels, as some programs write them as floats
        grey = values[..., 0] if values.shape[2] == 1 else values @ np.array([0.299, 0.587, 0.114], np.float32)
        if found.alpha is None:
            return grey, None
        alpha = found.alpha.astype(np.float32) / np.float32(255 if found.alpha.dtype == np.uint8 else found.top)
        return grey, None if (alpha == 1).all() else alpha
