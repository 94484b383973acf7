"""Files as bytes: what Pillow makes of a picture, and a PNG chunk by chunk, which may promise what it does not hold."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(data := io.BytesIO(), kind, **options)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows=(), *extra: tuple[bytes, bytes]) -> bytes:
    """Rows of packed samples, without a filter; `extra` chunks stand before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*e) for e in extra) + body + chunk(b"IEND", b"")
