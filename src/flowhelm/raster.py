"""Picture files read through libvips: photographs, masks and kernels alike, upright and in sRGB, at the depth that they have.

What a file would cost is told by its header and refused before anything is unpacked: by default what takes more than half of the memory
that is free, else by `within`. Loaders that libvips calls untrusted are blocked.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from . import exif

BYTES = 16
"""Of memory for a pixel while it is read: three floats, and what the decoder gave."""
DEFLATE = 1040
"""Bytes that one of a PNG may stand for."""
RAW = (".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".dng")
_MAGIC = {
    b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF", b"BM": "BMP",
    b"%PDF": "PDF", b"<svg": "SVG",
}  # fmt: skip
_READ = {"PNG", "JPEG", "WebP", "TIFF", "GIF", "BMP", "HEIC or AVIF"}
TEXT = "text-"
"""How the field of a PNG's text begins; its keyword follows."""
_CARRIED = ("exif-", "xmp-data", "iptc-data", "resolution-unit")
_STALE = (
    "exif-ifd0-Orientation", "exif-ifd0-XResolution", "exif-ifd0-YResolution", "exif-ifd0-ResolutionUnit", "exif-ifd1",
    "exif-ifd2-ColorSpace", "exif-ifd2-PixelXDimension", "exif-ifd2-PixelYDimension", "exif-ifd2-MakerNote", "exif-ifd4",
)  # fmt: skip
"""What is no longer true of the picture that is written."""
# x, y of red, green, blue and white
_709 = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)
_ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.329)
_PRIMARIES = {
    1: _709,
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329),
}
_SRGB = 0.0
"""Stands for sRGB's own curve where a gamma is named."""
_GAMMAS = {1: 1 / 0.45, 4: 2.2, 5: 2.8, 6: 1 / 0.45, 8: 1.0, 13: _SRGB, 14: 1 / 0.45, 15: 1 / 0.45}


class Unusable(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with its name."""


class TooLarge(Unusable):
    """It would take more pixels or more memory than are allowed."""


_allowed: ContextVar[tuple[float | None, str]] = ContextVar("allowed", default=(None, "allow more by --memory"))
"""Bytes that one file may take to be read, and how a person allows more. A budget of whoever asked, which operators read under, too."""


@contextmanager
def within(memory: float | None, remedy: str | None = None) -> Iterator[None]:
    """Holds what is read inside, in this thread, to so many bytes for each file; None: to what was allowed before.

    Do not let a generator yield inside: whoever listens to it would be held, too.
    """
    bytes_, words = _allowed.get()
    token = _allowed.set((bytes_ if memory is None else memory, words if remedy is None else remedy))
    try:
        yield
    finally:
        _allowed.reset(token)


class Raster(NamedTuple):
    """A picture as its file has it, upright.

    values  (h, w, 1 or 3), uint8, uint16 or float; grey, or in sRGB
    alpha   (h, w) of the same type, or None
    top     the value of white
    icc     profile, if the values are still in it
    fields  metadata by libvips' names: EXIF, XMP, IPTC (its fields alone), resolution, a PNG's texts
    note    what a person should know: which of several pages it is, colours that could not be converted; or empty
    """

    values: np.ndarray
    alpha: np.ndarray | None
    top: float
    icc: bytes | None
    fields: Mapping[str, tuple[int, Any]]
    note: str = ""


@cache
def vips() -> Any:
    """libvips, without what it calls untrusted. Nothing is kept from one file to the next."""
    import logging

    import pyvips

    logging.getLogger("pyvips").setLevel(logging.CRITICAL)
    pyvips.block_untrusted_set(True)
    pyvips.cache_set_max(0)
    return pyvips


def half_of_free() -> float:
    """Bytes of memory: what one picture, or a process that restores, may take where nothing else is said."""
    import psutil

    return float(psutil.virtual_memory().available) / 2


def check_cost(size: float) -> None:
    """Raises TooLarge for so many bytes of memory; call it before they are taken."""
    given, remedy = _allowed.get()
    budget = half_of_free() if given is None else given
    if size > budget:
        whose = "that it may" if given is not None else "that it may (half of what is free)"
        raise TooLarge(
            f"would take {amount(size)} of memory, more than the {amount(budget)} {whose}; scale it down first, or {remedy}"
        )


def amount(size: float) -> str:
    """`1.5 GB`: in powers of 1000, as --memory takes it."""
    power = next(p for p in (12, 9, 6, 3) if size >= 10**p or p == 3)
    return f"{size / 10**power:.3g} {dict(zip((12, 9, 6, 3), ('TB', 'GB', 'MB', 'kB'), strict=True))[power]}"


def load(data: bytes, suffix: str = "", *, limit: float = 3e8, page: int | None = None) -> Raster:
    """A picture from the bytes of its file; it takes no more memory than `within` allows.

    Args:
        suffix: of its name, by which camera raw is told. limit: in pixels.
        page: of several, counted from 1; default the first of the largest.

    Raises:
        Unusable: anything that is wrong with it.
    """
    if not data:
        raise Unusable("is empty (0 bytes); get the file again")
    try:
        mosaic = exif.is_mosaic(data)
        if (mosaic or suffix.lower() in RAW) and (made := _developed(data, suffix, mosaic)) is not None:
            return made
        image, note = _opened(data, limit, page)
        return _read(image, note, data)
    except Unusable:
        raise
    except Exception as error:  # on damaged bytes, decoders raise nearly anything
        found = identified(data)
        if found not in _READ:
            raise Unusable(
                f"is {found}; expected JPEG, PNG, WebP or TIFF" + "; convert it first" * (found[:3] != "not")
            ) from error
        if found == "HEIC or AVIF" and (b"hvc1" in data[:4096] or data[8:12] in (b"heic", b"heix")):
            raise Unusable(
                "is HEIC, which the libvips that pip installs does not read; save it as JPEG or AVIF first"
            ) from error
        raise Unusable(f"is {found}, but truncated or damaged ({_reason(error)}); get a whole copy of it") from error


def identified(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "HEIC or AVIF"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "not a picture")


def _reason(error: BaseException) -> str:
    lines = str(getattr(error, "detail", "") or error).splitlines()
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)[:200]


def _opened(data: bytes, limit: float, page: int | None) -> tuple[Any, str]:
    """The page that is meant, not unpacked yet."""
    lib = vips()
    if data.startswith(b"BM"):  # libvips' wheel has no reader of BMP
        return _of_pillow(data, limit), ""
    try:
        image = lib.Image.new_from_buffer(data, "", fail_on="error")
    except lib.Error as error:
        if "labq" in str(error.detail):  # Lab of 8 bits
            return _of_pillow(data, limit), ""
        raise
    pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
    note = ""
    if page is not None and not 1 <= page <= pages:
        raise Unusable(f"has {pages} page{'s' * (pages > 1)}, got page {page}; choose one from 1 to {pages}")
    if pages > 1 or page is not None:
        chosen = page
        if chosen is None:  # a camera's or an editor's first may be a small view of the second
            sizes = [_page(data, k).width * _page(data, k).height for k in range(min(pages, 100))]
            chosen = 1 + sizes.index(max(sizes))
        image, note = _page(data, chosen - 1), f"holds {pages} pages; page {chosen} is read, others by --page"
        note *= pages > 1
    else:
        image = _largest(image, data)
    if image.width * image.height > limit:
        raise TooLarge(f"is larger than the limit of {limit / 1e6:g} megapixels; scale it down first")
    if data.startswith(b"\x89PNG") and image.width * image.height * data[24] / 8 > DEFLATE * len(data):
        raise Unusable(
            "is PNG, but truncated or damaged (its head tells of more than it can hold); get a whole copy of it"
        )
    check_cost(BYTES * image.width * image.height)
    return image, note


def _page(data: bytes, index: int) -> Any:
    return vips().Image.new_from_buffer(data, "", page=index, fail_on="error")


def _largest(image: Any, data: bytes) -> Any:
    """Of a TIFF whose directory holds others below it (a camera's), the largest that can be read."""
    count = image.get("n-subifds") if image.get_typeof("n-subifds") else 0
    for k in range(min(count, 16)):
        with suppress(vips().Error):
            other = vips().Image.new_from_buffer(data, "", subifd=k, fail_on="error")
            image = other if other.width * other.height > image.width * image.height else image
    return image


def _of_pillow(data: bytes, limit: float) -> Any:
    """What libvips' wheel does not read: BMP, and TIFF of Lab in 8 bits."""
    from PIL import Image, ImageCms

    with Image.open(BytesIO(data), formats=("BMP", "TIFF")) as picture:
        if picture.width * picture.height > limit:
            raise TooLarge(f"is larger than the limit of {limit / 1e6:g} megapixels; scale it down first")
        check_cost(BYTES * picture.width * picture.height)
        if picture.mode == "LAB":
            spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            picture = ImageCms.applyTransform(picture, _exactly(*spaces, "LAB"))  # type: ignore[assignment]
        return vips().Image.new_from_array(np.asarray(picture.convert("L" if picture.mode in "1L" else "RGB")))


def _developed(data: bytes, suffix: str, mosaic: bool) -> Raster | None:
    """Camera raw, developed by LibRaw; None for a DNG that is an ordinary TIFF. A `mosaic` is none, whatever its name."""
    ordinary = suffix.lower() == ".dng" and not mosaic
    try:
        import rawpy  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        if ordinary:
            return None
        raise Unusable("is a camera's raw picture, which needs rawpy: pip install 'flowhelm[raw]'") from None
    try:
        with rawpy.imread(BytesIO(data)) as raw:
            size = raw.sizes
            check_cost(2 * BYTES * size.width * size.height)
            values = raw.postprocess(use_camera_wb=True, output_bps=16, gamma=(2.4, 12.92))  # of sRGB
    except Unusable:
        raise
    except Exception as error:
        if ordinary:
            return None
        raise Unusable(f"cannot be developed by LibRaw ({_reason(error)}); save it as TIFF or DNG") from error
    fields = _of_tiff(data) if data[:4] in (b"II*\0", b"MM\0*") else {}
    fields = {name: value for name, value in fields.items() if not name.startswith(_STALE)}
    return Raster(values, None, 65535, None, fields, "is camera raw, developed with the camera's white balance")


def _read(image: Any, note: str, data: bytes) -> Raster:
    fields = _fields(image)
    if data[:4] in (b"II*\0", b"MM\0*"):
        fields |= _of_tiff(data)
    elif data.startswith(b"\x89PNG"):
        fields |= _of_png(data)
    profile, told = _profile(image, data, fields)
    fields = {n: value for n, value in fields.items() if not n.startswith(_STALE)}
    # 1 stands for none, and a PNG without is said to have 72 dpi
    if image.xres != 1.0 and ("resolution-unit" in fields or abs(image.xres - 72 / 25.4) > 1e-3):
        turned = image.get_typeof("orientation") and image.get("orientation") > 4
        fields |= {"xres": (0, image.yres if turned else image.xres), "yres": (0, image.xres if turned else image.yres)}
    image = image.autorot()
    kind = image.interpretation
    if image.format in ("complex", "dpcomplex") or kind in ("fourier", "histogram"):
        raise Unusable("holds complex values or no colours; save it again as 8- or 16-bit PNG")
    alpha = None
    if image.hasalpha():
        alpha, image = image[image.bands - 1], image[0 : image.bands - 1] if image.bands > 2 else image[0]
    deep = image.format not in ("uchar", "char")
    if kind == "cmyk" and not profile:
        if image.format not in ("uchar", "ushort"):
            raise Unusable("is CMYK of neither 8 nor 16 bits; save it again as one of these")
        stored, top = (np.uint16, 65535) if deep else (np.uint8, 255)
        cmyk = top - _array(image, stored)
        values = ((cmyk[..., :3] * cmyk[..., 3:].astype(np.uint32) + top // 2) // top).astype(stored)
        return Raster(values, _one(alpha), top, None, fields, note)
    if kind in ("lab", "labs", "labq"):  # of D50 in files, of D65 to libvips, so that lcms converts it
        image, profile = image.colourspace("lab").icc_export(output_profile="srgb", pcs="lab", depth=16), None
        deep = True
    elif kind in ("xyz", "yxy", "lch", "cmc", "hsv", "scrgb", "oklab"):
        image, profile = image.colourspace("rgb16" if deep or kind != "hsv" else "srgb").cast("ushort"), None
        deep = True
    elif profile:
        if kind == "cmyk" and deep:
            told = "is CMYK of 16 bits; its colours are converted with 8 bits"
        image, profile = _converted(image, profile, deep)
    if image.bands not in (1, 3):
        raise Unusable(f"has {image.bands} channels; expected grey or colour; save it again as 8- or 16-bit PNG")
    top = {"uchar": 255, "ushort": 65535}.get(image.format, 1 if image.format in ("float", "double") else 65535)
    kept = {"uchar": np.uint8, "ushort": np.uint16}.get(image.format, np.float64)
    return Raster(_array(image, kept), _one(alpha), top, profile, fields, "; ".join(filter(None, (note, told))))


def _fields(image: Any) -> dict[str, tuple[int, Any]]:
    found: dict[str, tuple[int, Any]] = {}
    for name in image.get_fields():
        if name.startswith(_CARRIED):
            with suppress(UnicodeDecodeError):  # a text in no known script
                found[name] = image.get_typeof(name), image.get(name)
    iptc = exif.iptc_of(bytes(found.pop("iptc-data", (0, b""))[1]))
    return found | ({"iptc-data": (vips().GValue.blob_type, iptc)} if iptc else {})


def _of_png(data: bytes) -> dict[str, tuple[int, Any]]:
    """Texts of a PNG, as libvips would not write them again, and the IPTC that stands in one."""
    texts, iptc = exif.texts_of(data)
    found: dict[str, tuple[int, Any]] = {f"{TEXT}{key}": (0, text) for key, text in texts.items()}
    return found | ({"iptc-data": (vips().GValue.blob_type, iptc)} if iptc else {})


def _of_tiff(data: bytes) -> dict[str, tuple[int, Any]]:
    """The metadata of a TIFF that libvips does not read, or not whole."""
    from PIL import Image

    found, fields = exif.parsed(data), dict[str, tuple[int, Any]]()
    if found is None:
        return fields
    if (entry := found.main.get(exif.IPTC)) and (iptc := exif.iptc_of(entry.value)):
        fields["iptc-data"] = vips().GValue.blob_type, iptc
    if any(exif.kept(found)[1:]):
        with suppress(Exception):  # a broken one is no reason to refuse
            whole = found._replace(main=exif.kept(found).main)
            Image.new("L", (1, 1)).save(made := BytesIO(), "JPEG", exif=exif.block(whole))
            fields |= _fields(vips().Image.new_from_buffer(made.getvalue(), ""))
    return fields


def _array(image: Any, kind: Any) -> np.ndarray:
    values = np.asarray(image.numpy())
    with np.errstate(invalid="ignore"):  # NaN, which is told later
        return values.reshape(image.height, image.width, image.bands).astype(kind, copy=False)


def _one(alpha: Any) -> np.ndarray | None:
    return None if alpha is None else np.asarray(alpha.numpy()).reshape(alpha.height, alpha.width)


def _converted(image: Any, profile: bytes, deep: bool) -> tuple[Any, bytes | None]:
    """In sRGB, and the profile if it was that already: such a picture keeps its exact values. A broken or unfit one is ignored."""
    model = {b"RGB ": 3, b"GRAY": 1, b"CMYK": 4}.get(profile[16:20], 0)
    if model != image.bands:
        return image, None
    from PIL import Image, ImageCms

    try:
        spaces = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
        ImageCms.buildTransform(
            *spaces, {1: "L", 3: "RGB", 4: "CMYK"}[model], "RGB"
        )  # libvips passes over a broken one
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return (image, profile if model == 1 else None) if model < 4 else (image, None)
    try:
        if model < 4:
            steps = np.arange(0, 256, 51, dtype=np.uint8)
            grid = np.stack(np.meshgrid(*([steps] * model), indexing="ij"), -1).reshape(1, -1, model)
            moved = np.asarray(_through(vips().Image.new_from_array(grid), profile, 8).numpy()).reshape(1, -1, 3)
            if np.abs(moved.astype(int)[..., :model] - grid).max() <= 2:
                return image, profile
        if model == 4:
            cmyk = Image.fromarray(_array((image / 257).rint() if deep else image, np.uint8), "CMYK")
            made = ImageCms.applyTransform(cmyk, _exactly(*spaces, "CMYK"))
            return vips().Image.new_from_array(np.asarray(made)), None
        made = _through(image, profile, 16 if deep else 8)
        return (made[0] if model == 1 else made), None
    except vips().Error:
        return (image, profile if model == 1 else None) if model < 4 else (image.colourspace("srgb"), None)


def _through(image: Any, profile: bytes, depth: int) -> Any:
    image = image.copy(interpretation={1: "b-w", 3: "srgb", 4: "cmyk"}[image.bands])
    if image.format not in ("uchar", "char"):
        image = image.cast("ushort").copy(interpretation={1: "grey16", 3: "rgb16", 4: "cmyk"}[image.bands])
    image.set_type(vips().GValue.blob_type, "icc-profile-data", profile)
    if depth == 16 and image.bands == 3 and b"rXYZ" in profile[128:512] and b"A2B0" not in profile[128:512]:
        # one step of 16 bits goes by a table of lcms, 16 levels of 255 off where colours are clipped; two by floats go not
        light = image.icc_import(embedded=True, intent="perceptual", pcs="xyz")
        return light.icc_export(output_profile="srgb", intent="perceptual", pcs="xyz", depth=16)
    return image.icc_transform("srgb", embedded=True, intent="perceptual", depth=depth)


def _exactly(source: Any, target: Any, mode: str) -> Any:
    """To RGB of 8 bits, without the tables by which lcms is faster and up to 22 levels off where colours are clipped."""
    from PIL import ImageCms

    return ImageCms.buildTransform(source, target, mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)


# --- colours that are told otherwise than by a profile ---


def _profile(image: Any, data: bytes, fields: Mapping[str, tuple[int, Any]]) -> tuple[bytes | None, str]:
    """The file's own profile, or one made from what it says in another way; and what could not be heeded."""
    chunks = _chunks(data) if data.startswith(b"\x89PNG") else {}
    if code := chunks.get(b"cICP"):  # goes before a profile
        primaries, gamma = _PRIMARIES.get(code[0]), _GAMMAS.get(code[1])
        if primaries is None or gamma is None:
            return None, f"its colours (cICP {code[0]}, {code[1]}) are not converted"
        return _made(gamma, primaries, image.bands), ""
    if image.get_typeof("icc-profile-data"):
        return bytes(image.get("icc-profile-data")), ""
    if b"sRGB" in chunks or image.interpretation not in ("srgb", "rgb16", "b-w", "grey16", "rgb"):
        return None, ""
    if b"gAMA" in chunks or b"cHRM" in chunks:
        gamma, primaries = _SRGB, _709
        if len(told := chunks.get(b"gAMA", b"")) == 4 and (value := struct.unpack(">I", told)[0]):
            gamma = 1e5 / value
        if len(told := chunks.get(b"cHRM", b"")) == 32:
            x = [value / 1e5 for value in struct.unpack(">8I", told)]
            primaries = (*x[2:], *x[:2])
        usual = max(abs(a - b) for a, b in zip(primaries, _709, strict=True)) < 0.002
        return (
            None if usual and (gamma == _SRGB or abs(gamma - 2.2) < 0.01) else _made(gamma, primaries, image.bands)
        ), ""
    words = {
        name: str(fields[f"exif-{name}"][1])
        for name in ("ifd2-ColorSpace", "ifd4-InteroperabilityIndex")
        if f"exif-{name}" in fields
    }
    space = words.get("ifd2-ColorSpace", "").split(" ")[0]
    if space == "2" or (space != "1" and words.get("ifd4-InteroperabilityIndex", "").startswith("R03")):
        return _made(563 / 256, _ADOBE, image.bands), ""
    return None, ""


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Small chunks of a PNG before its pixels."""
    found, at = {}, 8
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IDAT":
            break
        body = data[at + 8 : at + 8 + length]
        if length <= 64 and data[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(name + body)):
            found[name] = body
        at += 12 + length
    return found


def _made(gamma: float, primaries: tuple[float, ...], bands: int) -> bytes | None:
    """An ICC profile of a curve and of primaries (version 2), adapted to D50 as Bradford does; None for impossible ones."""
    grey = bands < 3
    try:
        x, y = np.array(primaries[::2]), np.array(primaries[1::2])
        xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
        colours = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ xyz[:, 3])) @ bradford @ colours
    level = np.linspace(0, 1, 4096)
    light = (
        np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4) if gamma == _SRGB else level**gamma
    )
    if not (np.isfinite(adapted).all() and np.abs(adapted).max() < 4 and np.isfinite(light).all()):
        return None
    curve = b"curv" + struct.pack(">II", 0, 4096) + (light * 65535).round().astype(">u2").tobytes()
    point = lambda v: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(a) * 65536) for a in v))  # noqa: E731
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": point(d50)}
    tags |= {b"kTRC": curve} if grey else {b"%cXYZ" % c: point(adapted[:, k]) for k, c in enumerate(b"rgb")}
    tags |= {} if grey else {b"%cTRC" % c: curve for c in b"rgb"}
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s4sI4s4sQI", 2020, 1, 1, 0, 0, 0, b"acsp", b"\0\0\0\0", 0, b"\0\0\0\0", b"\0\0\0\0", 0, 0)
    head += struct.pack(">3i", *(round(float(a) * 65536) for a in d50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body
