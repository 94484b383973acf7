"""Pictures whose colours are tagged in all usual ways are read within 1.5 levels of what lcms makes of them.

The profiles are made by lcms itself (`cmsCreateRGBProfile`, `cmsCreateGrayProfile`), but for Display P3 and CMYK, which are those built
into libvips; none comes from the code that is tested. They are not the makers' own files, which may not be shipped: AdobeRGB and ProPhoto
have the published primaries and gammas, without ProPhoto's straight piece near black. CMYK without a profile has no right answer: Pillow's
conversion is taken. CMYK of 16 bits with a profile is read with 8 bits, and the reader says so: it is compared from these.
"""

import ctypes
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import pytest
from PIL import Image

from flowhelm import raster
from flowhelm.app.files.pictures import read

D65, D50 = (0.3127, 0.329), (0.34567, 0.3585)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PROPHOTO = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# lcms' numbers of pixel formats: colour space, channels, bytes
GREY, RGB, CMYK, LAB = ((space << 16) | (count << 3) for space, count in ((3, 1), (4, 3), (6, 4), (10, 3)))


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double), ("Y", ctypes.c_double)]


def _library() -> ctypes.CDLL | None:
    """The lcms of Pillow's wheel."""
    base = Path(PIL.__file__).parent
    found = [*base.parent.glob("pillow.libs/liblcms2*"), *base.glob(".dylibs/liblcms2*")]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    for name in (
        "CreateRGBProfile", "CreateGrayProfile", "BuildGamma", "OpenProfileFromMem", "CreateTransform",
        "Create_sRGBProfile",
    ):  # fmt: skip
        getattr(library, f"cms{name}").restype = ctypes.c_void_p
    library.cmsCreateLab4Profile.restype = ctypes.c_void_p
    return library


LCMS = _library()
pytestmark = pytest.mark.skipif(LCMS is None, reason="this Pillow holds lcms where it cannot be called")


def _gamma(value: float) -> ctypes.c_void_p:
    return ctypes.c_void_p(LCMS.cmsBuildGamma(None, ctypes.c_double(value)))


def profile(gamma: float, primaries: tuple[float, ...] | None, white: tuple[float, float]) -> bytes:
    """Of RGB, or of grey where there are no primaries."""
    points = [
        Point(x, y, 1)
        for x, y in zip((*white, *(primaries or ()))[::2], (*white, *(primaries or ()))[1::2], strict=True)
    ]
    if primaries is None:
        made = LCMS.cmsCreateGrayProfile(ctypes.byref(points[0]), _gamma(gamma))
    else:
        curves = (ctypes.c_void_p * 3)(*[_gamma(gamma)] * 3)
        made = LCMS.cmsCreateRGBProfile(ctypes.byref(points[0]), (Point * 3)(*points[1:]), curves)
    size = ctypes.c_uint32()
    assert LCMS.cmsSaveProfileToMem(ctypes.c_void_p(made), None, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    assert LCMS.cmsSaveProfileToMem(ctypes.c_void_p(made), data, ctypes.byref(size))
    return data.raw


def lcms(values: np.ndarray, icc: bytes | None, kind: int) -> np.ndarray:
    """In sRGB, as levels of 255; `icc` None stands for Lab."""
    source = LCMS.cmsOpenProfileFromMem(icc, len(icc)) if icc else LCMS.cmsCreateLab4Profile(None)
    wide = values.dtype.itemsize
    # flags: not optimised, so that 8 bits are not reckoned in 8 bits
    made = LCMS.cmsCreateTransform(
        ctypes.c_void_p(source), kind | wide, ctypes.c_void_p(LCMS.cmsCreate_sRGBProfile()), RGB | 2, 0, 0x0100
    )
    assert made
    values, out = np.ascontiguousarray(values), np.empty((*values.shape[:2], 3), np.uint16)
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)  # noqa: E731
    LCMS.cmsDoTransform(ctypes.c_void_p(made), pointer(values), pointer(out), values.shape[0] * values.shape[1])
    return out / 257.0


def colours(channels: int, kind: type) -> np.ndarray:
    """Every corner, and many between."""
    top = np.iinfo(kind).max
    chance = np.random.default_rng(0).integers(0, top, (24, 32, channels), endpoint=True).astype(kind)
    corners = np.array(np.meshgrid(*[[0, top // 3, top]] * channels)).reshape(channels, -1).T[: 24 * 16]
    chance.reshape(-1, channels)[: len(corners)] = corners
    return chance


def save(path: Path, values: np.ndarray, icc: bytes | None = None, kind: str = "") -> None:
    lib = raster.vips()
    deep = values.dtype == np.uint16
    names = {1: ("b-w", "grey16"), 3: ("srgb", "rgb16"), 4: ("cmyk", "cmyk")}
    image = lib.Image.new_from_array(values).copy(interpretation=kind or names[values.shape[2]][deep])
    if icc:
        image.set_type(lib.GValue.blob_type, "icc-profile-data", icc)
    more = {".webp": {"lossless": True}, ".jpg": {"Q": 100, "subsample_mode": "off"}}.get(path.suffix, {})
    image.write_to_file(str(path), **more)


def chunk(path: Path, name: bytes, body: bytes) -> None:
    data = path.read_bytes()
    made = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(data[:33] + made + data[33:])


def built_in(name: str) -> bytes:
    return bytes(raster.vips().Image.profile_load(name))


class Case(NamedTuple):
    suffix: str
    kind: type
    make: Callable[[Path, type], np.ndarray]
    """Writes the file and says what it shows, in levels."""


def by_icc(icc: Callable[[], bytes], kind: int) -> Callable[[Path, type], np.ndarray]:
    def make(path: Path, depth: type) -> np.ndarray:
        values = colours(kind >> 3 & 15, depth)
        save(path, values, icc())
        if path.suffix == ".jpg":
            values = np.asarray(Image.open(path))
        elif kind == CMYK and depth == np.uint16:
            values = (values / 257).round().astype(np.uint8)
        return lcms(values, icc(), kind)

    return make


def by_exif(path: Path, depth: type) -> np.ndarray:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    Image.fromarray(colours(3, depth)).save(path, quality=100, subsampling=0, exif=exif)
    return lcms(np.asarray(Image.open(path)), profile(563 / 256, ADOBE, D65), RGB)


def by_gamma(path: Path, depth: type) -> np.ndarray:
    values = colours(3, depth)
    save(path, values)
    chunk(path, b"gAMA", struct.pack(">I", 100_000))
    return lcms(values, profile(1, SRGB, D65), RGB)


def bare_cmyk(path: Path, depth: type) -> np.ndarray:
    values = colours(4, depth)
    if depth == np.uint8:
        Image.fromarray(values, "CMYK").save(
            path, **({"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {})
        )
        return np.asarray(Image.open(path).convert("RGB")).astype(float)
    save(path, values)
    c = 1 - values / 65535
    return 255 * c[..., :3] * c[..., 3:]


def of_lab(path: Path, depth: type) -> np.ndarray:
    """Colours of sRGB, given in Lab of D50, as TIFF says it."""
    chance = np.random.default_rng(0)
    lab = np.stack([chance.uniform(0, 100, (24, 32)), *chance.uniform(-60, 60, (2, 24, 32))], 2)
    if depth == np.uint8:
        stored = np.stack([lab[..., 0] * 2.55, lab[..., 1], lab[..., 2]], 2).round().astype(np.int16)
        Image.fromarray(stored.astype(np.uint8), "LAB").save(path)
        lab = np.stack([stored[..., 0] / 2.55, stored[..., 1], stored[..., 2]], 2)
    else:
        stored = np.stack([lab[..., 0] * 327.67, lab[..., 1] * 256, lab[..., 2] * 256], 2).round().astype(np.int16)
        save(path, stored, kind="labs")
        lab = np.stack([stored[..., 0] / 327.67, stored[..., 1] / 256, stored[..., 2] / 256], 2)
    coded = np.stack([lab[..., 0] * 655.35, (lab[..., 1] + 128) * 257, (lab[..., 2] + 128) * 257], 2)
    return lcms(coded.round().astype(np.uint16), None, LAB)


adobe = by_icc(lambda: profile(563 / 256, ADOBE, D65), RGB)
p3 = by_icc(lambda: built_in("p3"), RGB)
prophoto = by_icc(lambda: profile(1.8, PROPHOTO, D50), RGB)
cmyk = by_icc(lambda: built_in("cmyk"), CMYK)
grey = by_icc(lambda: profile(1.8, None, D50), GREY)
CASES = {
    "AdobeRGB by ICC": Case(".png", np.uint8, adobe),
    "AdobeRGB by ICC, 16 bits": Case(".png", np.uint16, adobe),
    "AdobeRGB by ICC, JPEG": Case(".jpg", np.uint8, adobe),
    "AdobeRGB by EXIF": Case(".jpg", np.uint8, by_exif),
    "Display P3, WebP": Case(".webp", np.uint8, p3),
    "Display P3, 16 bits": Case(".png", np.uint16, p3),
    "ProPhoto": Case(".tif", np.uint8, prophoto),
    "ProPhoto, 16 bits": Case(".tif", np.uint16, prophoto),
    "linear gAMA": Case(".png", np.uint8, by_gamma),
    "linear gAMA, 16 bits": Case(".png", np.uint16, by_gamma),
    "CMYK with profile": Case(".tif", np.uint8, cmyk),
    "CMYK with profile, 16 bits": Case(".tif", np.uint16, cmyk),
    "CMYK with profile, JPEG": Case(".jpg", np.uint8, cmyk),
    "CMYK without": Case(".tif", np.uint8, bare_cmyk),
    "CMYK without, 16 bits": Case(".tif", np.uint16, bare_cmyk),
    "CMYK without, JPEG": Case(".jpg", np.uint8, bare_cmyk),
    "Lab": Case(".tif", np.uint8, of_lab),
    "Lab, 16 bits": Case(".tif", np.uint16, of_lab),
    "grey of gamma 1.8": Case(".png", np.uint8, grey),
    "grey of gamma 1.8, 16 bits": Case(".png", np.uint16, grey),
}


@pytest.mark.parametrize("name", CASES)
def test_tagged_colours_are_those_of_lcms(name, tmp_path):
    case = CASES[name]
    path = tmp_path / f"p{case.suffix}"
    want = case.make(path, case.kind)
    picture = read(path)
    got = (picture.pixels[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.abs(got - want).max() <= 1.5
    few = name == "CMYK with profile, 16 bits"
    assert few == ("with 8 bits" in picture.note)
    if case.kind == np.uint16 and not few:
        assert picture.depth == 16
        assert len(np.unique(got)) > 256  # no fewer levels than the file has
