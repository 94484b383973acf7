"""Files that an operator is made from: whatever is wrong with one is a ValueError that names it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError


@contextmanager
def reading(who: str, path: str) -> Iterator[None]:
    """Turns anything that goes wrong inside into a ValueError of one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{who}: {path!r} does not exist; check the path") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{who}: {path!r} is not a picture; save it as PNG") from error
    except Exception as error:  # on damaged bytes Pillow, NumPy and zipfile raise nearly anything
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ValueError(
            f"{who}: {path!r} cannot be read ({' '.join(reason.split())}); get a whole copy of it"
        ) from error


def grey(who: str, path: str) -> np.ndarray:
    """A picture file as (h, w) float32; 8 bits are 0 to 255."""
    with reading(who, path), Image.open(path) as picture:
        return np.array(picture.convert("F"))
