"""Pictures on disk: read to float32 in [-1, 1], written back alike, whole or not at all.

What the user got wrong is a `BadInput`: one sentence that says what, expected, got and remedy.
"""

import os
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ... import exif, raster
from ...raster import Raster
from ..errors import BadInput, TooLarge
from .atomic import FORMATS, put, reason

_SAVE: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"Q": 95, "subsample_mode": "off"},
    "WEBP": {"lossless": True, "exact": True},  # exact: keeps the colours under transparent pixels
    "TIFF": {"compression": "none"},
}


class Picture(NamedTuple):
    """A picture in memory, with what is needed to write a result back alike.

    pixels  (1, c, h, w) float32 in [-1, 1], upright, in sRGB if colour
    alpha   (1, 1, h, w) float32 in [0, 1], or None
    depth   8 or 16: bits per channel to write
    grey    whether the file had no colour
    icc     profile to embed: the file's own if sRGB or grey (grey values are never converted); None means sRGB
    fields  metadata by libvips' names (EXIF, XMP, IPTC, resolution); no orientation, no thumbnail
    note    what a person should know of how it was read, or empty
    jpeg    the bytes of the JPEG file that it was, whose tables tell how it was compressed; else None
    """

    pixels: Tensor
    alpha: Tensor | None = None
    depth: int = 8
    grey: bool = False
    icc: bytes | None = None
    fields: Mapping[str, tuple[int, Any]] = {}
    note: str = ""
    jpeg: bytes | None = None


def read(path: str | Path, *, channels: int = 3, limit: int = 300_000_000, page: int | None = None) -> Picture:
    """Reads a JPEG, PNG, WebP, TIFF, GIF, BMP, HEIC or AVIF file, or camera raw with the extra `raw`.

    `channels` is 3 (grey is repeated) or 1 (colour becomes luma); `limit` is in pixels and is held before decoding, as is what
    `raster.within` allows (half of the memory that is free); `page` of several counts from 1, default the first of the largest.
    16 bits stay 16 bits; floats are read as [0, 1] and written as 16 bits. Palette and colour-key transparency become `alpha`;
    colours under it are kept as they are.
    Raises BadInput if the file is missing, not such a picture, damaged, too large, or has values out of range.
    """
    if channels not in (1, 3):
        raise ValueError(f"read: expected channels 1 or 3, got {channels}")
    name = repr(str(path))
    try:
        if Path(path).is_dir():
            raise BadInput(f"{name} is a folder; name one picture in it")
        if Path(path).exists() and not Path(path).is_file():  # a pipe or a device may never end
            raise BadInput(f"{name} is not a regular file; save the picture to a file first")
        with open(path, "rb") as file:
            raster.check_cost(os.fstat(file.fileno()).st_size)
            data = file.read()
    except BadInput:
        raise
    except raster.Unusable as error:
        raise bad(error, f"{name} ") from error
    except FileNotFoundError as error:
        raise BadInput(f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{name} cannot be read ({reason(error)}); check the path and its permissions") from error
    return decode(data, name, channels=channels, limit=limit, suffix=Path(path).suffix, page=page)


def decode(
    data: bytes,
    name: str = "the picture",
    *,
    channels: int = 3,
    limit: int = 300_000_000,
    suffix: str = "",
    page: int | None = None,
) -> Picture:
    """`read` of the bytes of a file; `name` begins the sentence of a BadInput."""
    try:
        found = picture(raster.load(data, suffix, limit=limit, page=page), channels)
    except raster.Unusable as error:
        raise bad(error, f"{name} ") from error
    return found._replace(jpeg=bytes(data)) if data[:3] == b"\xff\xd8\xff" else found


def bad(error: raster.Unusable, begin: str = "") -> BadInput:
    """What is wrong with a file, as a sentence for a person."""
    return (TooLarge if isinstance(error, raster.TooLarge) else BadInput)(f"{begin}{error}")


def of_pil(image: Image.Image, *, channels: int = 3, limit: int = 300_000_000) -> Picture:
    """`read` of a Pillow picture of any mode. Raises BadInput."""
    if image.width * image.height > limit:
        raise BadInput(f"the picture is larger than the limit of {limit / 1e6:g} megapixels; scale it down first")
    data, file = BytesIO(), BytesIO()
    try:
        if image.format == "JPEG":  # opened and not changed since: once more by its own tables
            image.save(file, "JPEG", quality="keep", subsampling="keep")
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "LAB"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        kind = "PNG" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
        image.save(
            data, kind, **({"compress_level": 1} if kind == "PNG" else {}), icc_profile=image.info.get("icc_profile")
        )
    except Exception as error:  # a picture that Pillow has only opened may be damaged further on
        raise BadInput(f"the picture is truncated or damaged ({reason(error)}); get a whole copy of it") from error
    return decode(data.getvalue(), channels=channels, limit=limit)._replace(jpeg=file.getvalue() or None)


def write(path: str | Path, image: Tensor, like: Picture | None = None) -> None:
    """Writes `image`, (1, c, h, w) or (c, h, w) with c 1 or 3, clamped to [-1, 1], in the format of the suffix.

    `like` is the picture the result came from: its alpha (resized to fit; JPEG has none), 16 bits (PNG and TIFF), profile,
    resolution, EXIF, XMP, IPTC (not in WebP, which has no place for it) and a PNG's texts (in PNG) are kept, and 3 channels become
    grey if it was grey: for a colour result, pass `like._replace(grey=False)`. JPEG is quality 95, 4:4:4; the others are lossless.
    The file appears whole or not at all. Raises BadInput if it cannot be written, ValueError on a wrong shape or NaN.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise BadInput(f"{str(path)!r} has no known picture suffix; name it one of {' '.join(FORMATS)}")
    data = encoded(image, like, kind, name=repr(str(path)))
    put(path, lambda temporary: temporary.write_bytes(data))


def encoded(image: Tensor, like: Picture | None = None, kind: str = "PNG", *, name: str = "the picture") -> bytes:
    """What `write` writes, for one of the kinds PNG, JPEG, WEBP, TIFF."""
    like, lib = like or Picture(image), raster.vips()
    values = _stored(image, like, kind)
    picture = lib.Image.new_from_array(values)
    grey, deep = values.shape[2] < 3, values.dtype == np.uint16
    picture = picture.copy(interpretation=("grey16" if deep else "b-w") if grey else ("rgb16" if deep else "srgb"))
    if {"xres", "yres"} <= like.fields.keys():
        picture = picture.copy(xres=like.fields["xres"][1], yres=like.fields["yres"][1])
    picture = _told(picture, like.fields, kind)
    if icc := _fitting(like.icc, 1 if grey else 3):
        picture.set_type(lib.GValue.blob_type, "icc-profile-data", icc)
    try:
        data: bytes = picture.write_to_buffer({"JPEG": ".jpg"}.get(kind, f".{kind.lower()}"), **_SAVE[kind])
    except (lib.Error, OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        size = f"{picture.width}x{picture.height}"
        raise BadInput(f"{name}: {size} does not fit {kind} ({reason(error)}); write a .png") from error
    _, iptc = like.fields.get("iptc-data", (0, None))
    mark = raster.TEXT
    texts = {name.removeprefix(mark): value for name, (_, value) in like.fields.items() if name.startswith(mark)}
    return exif.placed(data, kind, _exif(like.fields, (picture.width, picture.height)), iptc, texts)


def _exif(fields: Mapping[str, tuple[int, Any]], size: tuple[int, int]) -> exif.Exif | None:
    found = exif.parsed(bytes(fields["exif-data"][1])) if "exif-data" in fields else None
    dense = (float(fields["xres"][1]), float(fields["yres"][1])) if {"xres", "yres"} <= fields.keys() else None
    return None if found is None else exif.told(found, size, dense)


def _told(picture: Any, fields: Mapping[str, tuple[int, Any]], kind: str) -> Any:
    """With the metadata; the picture stands upright. Its EXIF is put in its place when the file is written."""
    kinds = raster.vips().GValue
    for field, (kept, value) in fields.items():
        if field == "iptc-data":
            if kind == "JPEG":
                picture.set_type(kept, field, exif.iptc_in_jpeg(value))
        elif kept:
            picture.set_type(kept, field, value)
    picture.set_type(kinds.gint_type, "orientation", 1)
    if "exif-data" in fields:  # else libexif says that the colours are unknown
        picture.set_type(kinds.gstr_type, "exif-ifd2-ColorSpace", "1 (sRGB, Short, 1 components, 2 bytes)")
    return picture


def _stored(image: Tensor, like: Picture, kind: str) -> np.ndarray:
    """What a file holds, (h, w, 1 to 4): with the alpha of `like`, grey if it was, 16 bits if it had them and `kind` takes them."""
    pixels = luma(_single(image)) if like.grey else _single(image)
    deep = like.depth == 16 and kind in ("PNG", "TIFF")
    if like.alpha is not None and kind != "JPEG":
        alpha = like.alpha.float()
        if alpha.shape[-2:] != pixels.shape[-2:]:
            alpha = interpolate(alpha, pixels.shape[-2:], mode="bilinear", antialias=True)
        pixels = torch.cat([pixels, alpha[0] * 2 - 1])
    levels = _levels(pixels, 65535 if deep else 255).astype(np.uint16 if deep else np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def shown(image: Tensor, like: Picture) -> Image.Image:
    """The Pillow picture of what `write` saves; colours of 16 bits have 8 in it."""
    if like.depth == 16 and (not like.grey or like.alpha is not None):
        like = like._replace(depth=8)
    values = _stored(image, like, "PNG")
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def to_pil(image: Tensor) -> Image.Image:
    """An 8-bit Pillow picture, L or RGB, of (1, c, h, w) or (c, h, w) with c 1 or 3, clamped to [-1, 1]."""
    levels = _levels(_single(image), 255).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))


def picture(found: Raster, channels: int) -> Picture:
    """Of 3 channels (grey is repeated) or 1 (colour becomes luma). Raises raster.Unusable for values out of range."""
    values, top = found.values, found.top
    height, width, bands = values.shape
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise raster.Unusable("holds NaN or infinite values; expected values in [0, 1]; mend them first")
        low, high = float(values.min()), float(values.max())
        if low < -1e-4 * top or high > 1.0001 * top:
            raise raster.Unusable(
                f"holds values from {low:g} to {high:g}; expected 0 to {top:g}; scale them to that first"
            )
        layers = ((values / top).clip(0, 1) * 2 - 1).astype(np.float32)
    else:
        # of 8 bits in single precision, as ever: the numbers of a picture must not change
        steps = np.arange(int(top) + 1, dtype=np.float32 if top == 255 else np.float64)
        layers = (steps / np.asarray(top, steps.dtype) * 2 - 1).astype(np.float32)[values]
    count = 3 if bands == 3 or channels == 3 else 1
    pixels = torch.empty(count, height, width)
    for k in range(count):
        pixels[k] = torch.from_numpy(layers[..., k % bands])
    del layers
    alpha = None
    if found.alpha is not None:
        alpha = torch.from_numpy(
            found.alpha.astype(np.float32) / np.float32(255 if found.alpha.dtype == np.uint8 else found.top)
        )
    return Picture(
        (luma(pixels) if channels < count else pixels)[None],
        None if alpha is None else alpha[None, None],
        8 if top == 255 else 16,
        bands == 1,
        _fitting(found.icc, bands),
        found.fields,
        found.note,
    )


def _fitting(icc: bytes | None, channels: int) -> bytes | None:
    return icc if icc and icc[16:20] == (b"RGB " if channels == 3 else b"GRAY") else None


def _single(image: Tensor) -> Tensor:
    """(c, h, w) float32 on the CPU."""
    one = image[0] if image.dim() == 4 and len(image) == 1 else image
    if one.dim() != 3 or len(one) not in (1, 3) or not one.numel():
        raise ValueError(f"expected an image (1, c, h, w) or (c, h, w) with c 1 or 3, got {tuple(image.shape)}")
    one = one.detach().float().cpu()
    if not one.isfinite().all():
        raise ValueError("expected an image in [-1, 1], got NaN or infinite values; look at the run that made it")
    return one


def luma(image: Tensor) -> Tensor:
    """(c, h, w) to (1, h, w), by the weights of Rec. 601."""
    return image if len(image) == 1 else torch.einsum("chw,c->hw", image, image.new_tensor([0.299, 0.587, 0.114]))[None]


def _levels(image: Tensor, top: int) -> np.ndarray:
    return ((image + 1) * (top / 2)).round().clamp(0, top).numpy()
