"""Pictures on disk: read to float32 in [-1, 1], written back alike, whole or not at all.

What the user got wrong is a `BadInput`: one sentence that says what, expected, got and remedy.
"""

import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import BadInput
from .atomic import FORMATS, put, reason

_SAVE: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},  # exact: keeps the colours under transparent pixels
    "TIFF": {},  # uncompressed: Pillow's compressed writer fails on EXIF
}
_MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TAG = ExifTags.Base
# Carried over by name: a TIFF mixes these with its file's layout, and a thumbnail would show the old picture.
_KEPT: tuple[int, ...] = (_TAG.ImageDescription, _TAG.Make, _TAG.Model, _TAG.DateTime, _TAG.Artist, _TAG.Copyright)
_STALE = {_TAG.MakerNote, _TAG.ColorSpace, _TAG.ExifImageWidth, _TAG.ExifImageHeight, _TAG.ExifInteroperabilityOffset}
_alone = threading.Lock()


class Picture(NamedTuple):
    """A picture in memory, with what is needed to write a result back alike.

    pixels  (1, c, h, w) float32 in [-1, 1], upright, in sRGB if colour
    alpha   (1, 1, h, w) float32 in [0, 1], or None
    depth   8 or 16: bits per channel to write
    grey    whether the file had no colour
    icc     profile to embed: the file's own if sRGB or grey (grey values are never converted); None means sRGB
    exif    camera, date, author, exposure and place; no orientation, no thumbnail; or None
    """

    pixels: Tensor
    alpha: Tensor | None = None
    depth: int = 8
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None


def read(path: str | Path, *, channels: int = 3, limit: int = 300_000_000) -> Picture:
    """Reads the first frame of a JPEG, PNG, WebP or TIFF file.

    `channels` is 3 (grey is repeated) or 1 (colour becomes luma); `limit` is in pixels and is held before decoding.
    Grey keeps 16 bits; Pillow reduces 16-bit colour to 8. Float TIFF is read as [0, 1] and written as 16 bits.
    Palette and colour-key transparency become `alpha`; colours under it are kept as they are.
    Raises BadInput if the file is missing, not such a picture, damaged, too large, or has values out of range.
    (On a damaged TIFF, libtiff prints lines of its own to stderr, which Pillow cannot stop.)
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
            return _decode(file, name, channels, limit)
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{name} cannot be read ({reason(error)}); check the path and its permissions") from error


def decode(data: bytes, name: str = "the picture", *, channels: int = 3, limit: int = 300_000_000) -> Picture:
    """`read` of the bytes of a file; `name` begins the sentence of a BadInput."""
    return _decode(BytesIO(data), name, channels, limit)


def of_pil(image: Image.Image, *, channels: int = 3, limit: int = 300_000_000) -> Picture:
    """`read` of a Pillow picture of any mode. Raises BadInput."""
    if image.width * image.height > limit:
        raise BadInput(f"the picture is larger than the limit of {limit / 1e6:g} megapixels; scale it down first")
    try:
        return _picture(image, channels)
    except BadInput as error:
        raise BadInput(f"the picture {error}") from error.__cause__
    except Exception as error:  # a picture that Pillow has only opened may be damaged further on
        raise BadInput(f"the picture is truncated or damaged ({reason(error)}); get a whole copy of it") from error


def write(path: str | Path, image: Tensor, like: Picture | None = None) -> None:
    """Writes `image`, (1, c, h, w) or (c, h, w) with c 1 or 3, clamped to [-1, 1], in the format of the suffix.

    `like` is the picture the result came from: its alpha (resized to fit; JPEG has none), 16-bit grey (PNG and TIFF,
    without alpha), profile and EXIF are kept, and 3 channels become grey if it was grey: for a colour result, pass
    `like._replace(grey=False)`. JPEG is quality 95, 4:4:4; the others are lossless.
    The file appears whole or not at all. Raises BadInput if it cannot be written, ValueError on a wrong shape or NaN.
    """
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise BadInput(f"{str(path)!r} has no known picture suffix; name it one of {' '.join(FORMATS)}")
    data = encoded(image, like, kind, name=repr(str(path)))
    put(path, lambda temporary: temporary.write_bytes(data))


def encoded(image: Tensor, like: Picture | None = None, kind: str = "PNG", *, name: str = "the picture") -> bytes:
    """What `write` writes, for one of the kinds PNG, JPEG, WEBP, TIFF."""
    like = like or Picture(image)
    picture = shown(image, like, kind)
    tags = {"icc_profile": _fitting(like.icc, 1 if picture.mode[0] in "LI" else 3), "exif": like.exif}
    tags = {tag: value for tag, value in tags.items() if value}
    data = BytesIO()
    try:
        picture.save(data, kind, **_SAVE[kind], **tags)
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        size = f"{picture.width}x{picture.height}"
        raise BadInput(f"{name}: {size} does not fit {kind} ({reason(error)}); write a .png") from error
    return data.getvalue()


def shown(image: Tensor, like: Picture, kind: str = "PNG") -> Image.Image:
    """The Pillow picture that `write` saves: with the alpha of `like`, grey if it was, 16 bits if it had them."""
    pixels = luma(_single(image)) if like.grey else _single(image)
    deep = like.depth == 16 and len(pixels) == 1 and like.alpha is None and kind in ("PNG", "TIFF")
    picture = Image.fromarray(_levels(pixels[0], 65535).astype(np.uint16)) if deep else to_pil(pixels)
    if like.alpha is not None and kind != "JPEG":
        alpha = like.alpha.float()
        if alpha.shape[-2:] != pixels.shape[-2:]:
            alpha = interpolate(alpha, pixels.shape[-2:], mode="bilinear", antialias=True)
        picture.putalpha(to_pil(alpha[0] * 2 - 1))
    return picture


def to_pil(image: Tensor) -> Image.Image:
    """An 8-bit Pillow picture, L or RGB, of (1, c, h, w) or (c, h, w) with c 1 or 3, clamped to [-1, 1]."""
    levels = _levels(_single(image), 255).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0)))


def _decode(file: BinaryIO, name: str, channels: int, limit: int) -> Picture:
    head = file.read(16)
    if not head:
        raise BadInput(f"{name} is empty (0 bytes); get the file again")
    file.seek(0)
    try:
        with _guard(limit), Image.open(file, formats=("JPEG", "PNG", "WEBP", "TIFF")) as image:
            image.load()
            return _picture(image, channels)
    except BadInput as error:
        raise BadInput(f"{name} {error}") from error.__cause__
    except Image.DecompressionBombError as error:
        raise BadInput(f"{name} is larger than the limit of {limit / 1e6:g} megapixels; scale it down first") from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{name} {_identified(head)}") from error
    except Exception as error:  # on damaged bytes, decoders raise nearly anything: SyntaxError, struct.error, KeyError
        raise BadInput(f"{name} is truncated or damaged ({reason(error)}); get a whole copy of it") from error


def _identified(head: bytes) -> str:
    found = "HEIC or AVIF" if head[4:8] == b"ftyp" else next((k for m, k in _MAGIC.items() if head.startswith(m)), None)
    if found in ("PNG", "JPEG", "WebP", "TIFF"):
        return f"is {found} but damaged or of a kind that cannot be read; save it again as 8- or 16-bit PNG"
    return f"is {found or 'not a picture'}; expected JPEG, PNG, WebP or TIFF" + "; convert it first" * bool(found)


@contextmanager
def _guard(limit: int) -> Iterator[None]:
    """Holds Pillow to `limit` pixels, silently. Both settings are global to the process, hence the lock."""
    with _alone, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, (limit + 1) // 2  # Pillow refuses at twice this
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _picture(image: Image.Image, channels: int) -> Picture:
    exif, icc, tags = _exif(image), image.info.get("icc_profile"), getattr(image, "tag_v2", {})
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    deep, grey = image.mode[0] in "IF", image.mode.split(";")[0] in ("1", "L", "LA", "La", "I", "F")
    if deep:
        layers, alpha = _deep(image, tags)
    else:
        if clear := image.has_transparency_data:
            image = image.convert("LA" if grey else "RGBA")
        alpha = np.asarray(image.getchannel("A"))[None, None] / np.float32(255) if clear else None
        image = image.convert("L") if grey else image
        if not grey:
            image, icc = _srgb(image, icc)
        layers = np.asarray(image, np.float32).reshape(image.height, image.width, -1).transpose(2, 0, 1) / 255
    pixels = torch.from_numpy(np.ascontiguousarray(layers * 2 - 1, np.float32))
    if channels > len(pixels):
        pixels = pixels.repeat(channels, 1, 1)
    elif channels < len(pixels):
        pixels = luma(pixels)
    return Picture(
        pixels[None],
        None if alpha is None else torch.from_numpy(np.ascontiguousarray(alpha, np.float32)),
        16 if deep else 8,
        grey,
        _fitting(icc, 1 if grey else 3),
        exif,
    )


def _deep(image: Image.Image, tags: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (1, h, w) in [0, 1] and alpha (1, 1, h, w) of 16-bit, integer and float grey."""
    values = np.asarray(image).astype(np.float64)[None]
    if not np.isfinite(values).all():
        raise BadInput("holds NaN or infinite values; expected values in [0, 1]; mend them first")
    top = 1 if image.mode == "F" else 4095 if tags.get(_TAG.BitsPerSample, (16,))[0] == 12 else 65535
    low, high = values.min(), values.max()
    if low < -1e-4 * top or high > 1.0001 * top:
        raise BadInput(f"holds values from {low:g} to {high:g}; expected 0 to {top}; scale them to that first")
    key = image.info.get("transparency")
    alpha = (values != key).astype(np.float32)[None] if isinstance(key, int) else None
    if tags.get(_TAG.PhotometricInterpretation) == 0 and top > 1:  # white is zero; Pillow turns only 8 bits over
        values = top - values
    return (values / top).clip(0, 1), alpha


def _srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """RGB `image` in sRGB, and its profile if that was sRGB already: such a picture keeps its exact bytes."""
    image = image if image.mode == "CMYK" else image.convert("RGB")
    with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken or unfit profile is ignored
        if icc:
            change = ImageCms.buildTransform(BytesIO(icc), ImageCms.createProfile("sRGB"), image.mode, "RGB")
            if image.mode == "RGB" and _idle(change):
                return image, icc
            return change.apply(image), None
    return image.convert("RGB"), None


def _idle(change: ImageCms.ImageCmsTransform) -> bool:
    """Whether `change` moves no colour of a grid by more than two levels; names of profiles say nothing reliable."""
    grid = np.ascontiguousarray((np.indices((6, 6, 6)).reshape(3, 6, 36) * 51).astype(np.uint8).transpose(1, 2, 0))
    moved = np.asarray(change.apply(Image.fromarray(grid)))
    return bool(np.abs(grid.astype(int) - moved).max() <= 2)


def _fitting(icc: bytes | None, channels: int) -> bytes | None:
    return icc if icc and icc[16:20] == (b"RGB " if channels == 3 else b"GRAY") else None


def _turn(image: Image.Image) -> Image.Transpose | None:
    with suppress(Exception):  # broken EXIF raises nearly anything, and is no reason to refuse the picture
        return _TURNS.get(image.getexif().get(_TAG.Orientation, 1))
    return None


def _exif(image: Image.Image) -> bytes | None:
    with suppress(Exception):  # as above
        old, new = image.getexif(), Image.Exif()
        for tag in _KEPT:
            if tag in old:
                new[tag] = old[tag]
        for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if part := {k: v for k, v in old.get_ifd(tag).items() if k not in _STALE}:
                new[tag] = part
        data = new.tobytes() if len(new) else b""
        return data if 0 < len(data) <= 65533 else None  # what one JPEG segment holds
    return None


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
