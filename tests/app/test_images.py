import errno
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from encoded import encoded, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from flowhelm import raster
from flowhelm.app.errors import BadInput
from flowhelm.app.files import pictures as images
from flowhelm.app.files.atomic import check_writable, write_json
from flowhelm.app.files.pictures import Picture, read, to_pil, write

LIGHT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIDES = st.integers(1, 9)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTED = {  # orientation -> how a camera would have stored an upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def levels(pixels, top=255):
    """(1, c, h, w) in [-1, 1] back to integers (h, w, c), refusing what is not near one."""
    values = (pixels[0].double().permute(1, 2, 0).numpy() + 1) * top / 2
    assert np.abs(values - values.round()).max() < 0.02
    return values.round().astype(int)


def put(path, data):
    path.write_bytes(data)
    return path


def refused(*args, **kwargs):
    """The message of the BadInput that `read` raises, checked to be one line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput) as caught:
            read(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(args[0])) in message
    return message


# -- round trips


@LIGHT
@given(hnp.arrays(np.uint8, st.tuples(SIDES, SIDES, st.integers(1, 4))), st.sampled_from(["png", "tif", "webp"]))
def test_eight_bits_come_back_exactly(folder, values, suffix):
    mode = ["L", "LA", "RGB", "RGBA"][values.shape[2] - 1]
    if suffix == "webp":
        mode, values = ("RGB", values[..., :1].repeat(3, 2)) if mode in ("L", "LA") else (mode, values)
    first, second = folder / "a.png", folder / f"b.{suffix}"
    Image.fromarray(values.squeeze(2) if mode == "L" else values, mode=None).save(first)
    picture = read(first)
    write(second, picture.pixels, picture)
    again = Image.open(second)
    # a WebP whose alpha is opaque everywhere is stored without
    want = "RGB" if suffix == "webp" and values.shape[2] == 4 and (values[..., 3] == 255).all() else mode
    assert again.mode == want
    assert np.array_equal(np.asarray(again).reshape(values.shape[:2] + (-1,)), values[..., : len(want)])


@LIGHT
@given(
    hnp.arrays(np.uint16, st.tuples(SIDES, SIDES)),
    st.sampled_from(["<u2", ">u2"]),
    st.sampled_from(["png", "tif"]),
    st.sampled_from(["png", "tiff"]),
    st.sampled_from([1, 3]),
)
def test_sixteen_bit_grey_comes_back_exactly(folder, values, order, before, after, channels):
    first, second = folder / f"a.{before}", folder / f"b.{after}"
    Image.fromarray(values.astype(order)).save(first)
    picture = read(first, channels=channels)
    assert picture.pixels.shape == (1, channels, *values.shape)
    assert (picture.depth, picture.grey) == (16, True)
    write(second, picture.pixels, picture)
    again = Image.open(second)
    assert again.mode.startswith("I;16")
    assert np.array_equal(np.asarray(again), values)


@LIGHT
@given(hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 3)), st.booleans())
def test_palettes_and_bits(folder, values, clear):
    image = Image.fromarray(values).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 255])
    image.save(folder / "p.png", transparency=bytes([0, 128, 255, 7])) if clear else image.save(folder / "p.png")
    picture = read(folder / "p.png")
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 0, 255]])
    assert np.array_equal(levels(picture.pixels), table[values])
    if clear:
        assert np.array_equal((picture.alpha[0, 0] * 255).round().int().numpy(), np.array([0, 128, 255, 7])[values])
    else:
        assert picture.alpha is None
    Image.fromarray(values > 1).save(folder / "b.png")
    picture = read(folder / "b.png", channels=1)
    assert picture.grey
    assert np.array_equal(picture.pixels[0, 0].numpy(), np.where(values > 1, 1.0, -1.0))


def test_a_picture_is_float32_contiguous_and_its_own(folder):
    Image.fromarray(noise(4, 5)).save(folder / "a.png")
    pixels = read(folder / "a.png").pixels
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    pixels[0, 0] = 7  # in place on one channel must not reach the others
    assert pixels[0, 1].max() <= 1


def test_colour_as_one_channel_is_luma(folder):
    values = noise(4, 5, 3)
    Image.fromarray(values).save(folder / "a.png")
    picture = read(folder / "a.png", channels=1)
    assert picture.pixels.shape == (1, 1, 4, 5)
    grey = (picture.pixels[0, 0].numpy() + 1) * 127.5
    assert np.abs(grey - values @ [0.299, 0.587, 0.114]).max() < 1e-3
    write(folder / "b.png", picture.pixels, picture)
    assert Image.open(folder / "b.png").mode == "L"


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_colours_under_transparent_pixels_are_kept(folder, suffix):
    values = noise(8, 8, 4)
    values[2:, :, 3] = 0
    Image.fromarray(values).save(folder / "a.png")
    picture = read(folder / "a.png")
    write(folder / f"b.{suffix}", picture.pixels, picture)
    assert np.array_equal(np.asarray(Image.open(folder / f"b.{suffix}")), values)


# -- orientation, metadata, profiles


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(k, m) for k in ("PNG", "TIFF") for m in ("RGB", "LA", "I;16")]
    + [("JPEG", "RGB"), ("WEBP", "RGB"), ("WEBP", "LA")],
)
@pytest.mark.parametrize("orientation", ORIENTED)
def test_orientation_is_applied(folder, kind, orientation, mode):
    upright = noise(16, 24, {"RGB": 3, "LA": 2, "I;16": 1}[mode], dtype=np.uint16 if mode == "I;16" else np.uint8) // 2
    if kind == "JPEG":
        upright = np.kron(noise(2, 3, 3), np.ones((8, 8, 1), np.uint8))
    stored = np.ascontiguousarray(ORIENTED[orientation](upright))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = folder / f"o.{kind.lower()}"
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True, "exact": True}
    options = options if kind in ("JPEG", "WEBP") else {}
    Image.fromarray(stored.squeeze(2) if mode == "I;16" else stored).save(path, kind, exif=exif, **options)
    picture = read(path, channels=3 if mode == "RGB" else 1)
    assert not any("Orientation" in field for field in picture.fields)
    assert picture.pixels.shape[-2:] == (16, 24)
    difference = levels(picture.pixels, 65535 if mode == "I;16" else 255) - upright[
        ..., : picture.pixels.shape[1]
    ].astype(int)
    assert np.abs(difference).max() <= (3 if kind == "JPEG" or (kind, mode) == ("WEBP", "LA") else 0)
    if mode == "LA":
        assert np.array_equal((picture.alpha[0, 0] * 255).round().numpy(), upright[..., 1])


@pytest.mark.parametrize("first", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("second", ["jpg", "png", "webp", "tif"])
def test_exif_is_carried_without_what_no_longer_holds(folder, first, second):
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright] = "Maker", "someone"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.ISOSpeedRatings: 200, ExifTags.Base.ExifImageWidth: 99}
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    Image.fromarray(noise(6, 4, 3)).save(folder / f"a.{first}", exif=exif.tobytes())
    picture = read(folder / f"a.{first}")
    write(folder / f"b.{second}", picture.pixels, picture)
    with Image.open(folder / f"b.{second}") as again:
        assert again.size == (6, 4)
        found = again.getexif()
        assert (found[ExifTags.Base.Make], found[ExifTags.Base.Copyright]) == ("Maker", "someone")
        assert found.get(ExifTags.Base.Orientation, 1) == 1
        shot = found.get_ifd(ExifTags.IFD.Exif)
        assert (shot[ExifTags.Base.ISOSpeedRatings], shot.get(ExifTags.Base.ColorSpace, 1)) == (200, 1)
        assert shot.get(ExifTags.Base.ExifImageWidth, 6) == 6  # of the new picture
        assert found.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}


def test_broken_exif_and_profiles_are_ignored(folder):
    values = noise(4, 5, 3)
    for exif in (b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"):
        for icc in (b"junk", SRGB[:100], SRGB[:200] + bytes(len(SRGB) - 200)):
            Image.fromarray(values).save(folder / "a.png", exif=exif, icc_profile=icc)
            picture = read(folder / "a.png")
            assert np.array_equal(levels(picture.pixels), values)
            assert picture.icc is None


def test_an_srgb_profile_leaves_the_bytes_and_is_kept(folder):
    values = noise(5, 6, 4)
    Image.fromarray(values).save(folder / "a.png", icc_profile=SRGB)
    picture = read(folder / "a.png")
    assert picture.icc == SRGB
    for suffix in ("png", "jpg", "webp", "tif"):
        write(folder / f"b.{suffix}", picture.pixels, picture)
        assert Image.open(folder / f"b.{suffix}").info["icc_profile"] == SRGB
    write(folder / "b.png", picture.pixels, picture)
    assert np.array_equal(np.asarray(Image.open(folder / "b.png")), values)
    write(folder / "b.png", picture.pixels[:, :1], picture)  # a colour profile does not fit a grey file
    assert "icc_profile" not in Image.open(folder / "b.png").info


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_another_profile_is_converted(folder, mode):
    # sRGB with the names of its red and green primaries exchanged: what it calls red is green
    other = SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode).save(folder / "a.png", icc_profile=other)
    picture = read(folder / "a.png")
    assert np.abs(levels(picture.pixels) - [0, 255, 0]).max() <= 1
    assert picture.icc is None
    assert (picture.alpha is not None) == (mode == "RGBA")


def test_a_grey_profile_is_kept_and_a_misfit_dropped(folder):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]  # its tables are never looked at
    values = noise(3, 4)
    for icc, kept in ((profile, profile), (SRGB, None)):
        Image.fromarray(values).save(folder / "a.png", icc_profile=icc)
        picture = read(folder / "a.png")
        assert np.array_equal(levels(picture.pixels)[..., 0], values)
        assert picture.icc == kept
    picture = picture._replace(icc=profile, grey=False)
    write(folder / "b.png", picture.pixels, picture)
    assert "icc_profile" not in Image.open(folder / "b.png").info


# -- the other kinds of files


def test_cmyk_of_adobe_is_not_inverted(folder):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "a.jpg", quality=100)
    assert b"Adobe" in (folder / "a.jpg").read_bytes()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(folder / "a.tif")
    for name in ("a.jpg", "a.tif"):
        picture = read(folder / name)
        assert np.abs(levels(picture.pixels) - [255, 0, 0]).max() <= 3
        assert not picture.grey


def test_ycbcr_and_lab(folder):
    colour = Image.new("RGB", (8, 8), (180, 120, 90))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.applyTransform(colour, ImageCms.buildTransform(*profiles, "RGB", "LAB")).save(folder / "lab.tif")
    colour.convert("YCbCr").save(folder / "ycc.tif", compression="jpeg")
    for name in ("lab.tif", "ycc.tif"):
        assert np.abs(levels(read(folder / name).pixels) - [180, 120, 90]).max() <= 4


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_and_alpha_stay(folder, colour, channels, suffix):
    values = noise(3, 4, channels, dtype=np.uint16)
    put(folder / "a.png", png(4, 3, 16, colour, [row.astype(">u2").tobytes() for row in values]))
    picture = read(folder / "a.png")
    assert picture.depth == 16
    bands = channels - 1 + channels % 2
    assert np.array_equal(levels(picture.pixels, 65535)[..., :bands], values[..., :bands])
    assert (picture.alpha is not None) == (channels in (2, 4))
    write(folder / f"b.{suffix}", picture.pixels, picture)
    again = read(folder / f"b.{suffix}")
    assert torch.equal(again.pixels, picture.pixels)
    assert again.depth == 16
    assert picture.alpha is None or torch.equal(again.alpha, picture.alpha)


def test_other_tiffs(folder):
    tifffile = pytest.importorskip("tifffile")
    path, deep = folder / "a.tif", noise(5, 6, dtype=np.uint16)
    tifffile.imwrite(path, noise(5, 6, 3, dtype=np.uint16), photometric="rgb")
    assert np.array_equal(levels(read(path).pixels, 65535), noise(5, 6, 3, dtype=np.uint16))
    for order in "<>":
        tifffile.imwrite(path, deep, byteorder=order)
        assert np.array_equal(levels(read(path, channels=1).pixels, 65535)[..., 0], deep)
    tifffile.imwrite(path, deep, photometric="miniswhite")
    assert np.array_equal(levels(read(path, channels=1).pixels, 65535)[..., 0], 65535 - deep)
    tifffile.imwrite(path, np.zeros((5, 6), np.float64))
    assert "TIFF" in refused(path)
    tifffile.imwrite(path, np.full((5, 6), 2**20, np.int32))
    assert "1.04858e+06" in refused(path)


def test_float_tiff(folder):
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    path = folder / "a.tif"
    Image.fromarray(values).save(path)
    picture = read(path, channels=1)
    assert (picture.depth, picture.grey) == (16, True)
    assert np.allclose(picture.pixels[0, 0].numpy(), values * 2 - 1, atol=1e-6)
    write(folder / "b.tif", picture.pixels, picture)
    assert np.array_equal(np.asarray(Image.open(folder / "b.tif")), (values * 65535).round())
    for bad in (np.nan, np.inf, -np.inf):
        Image.fromarray(np.where(values > 0.5, np.float32(bad), values)).save(path)
        assert "NaN or infinite" in refused(path)
    for scale, words in ((255, "from 0 to 255"), (-1, "from -1 to")):
        Image.fromarray(values * scale).save(path)
        assert words in refused(path)


@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (16, 0), (8, 2)])
def test_a_colour_key_becomes_alpha(folder, depth, colour):
    kind = ">u2" if depth == 16 else "u1"
    values = np.arange(24).reshape(2, 4, 3)[..., : 3 if colour else 1]
    key = values[1, 2]
    data = png(4, 2, depth, colour, [r.astype(kind).tobytes() for r in values], (b"tRNS", key.astype(">u2").tobytes()))
    picture = read(put(folder / "a.png", data))
    assert np.array_equal(picture.alpha[0, 0].numpy(), np.any(values != key, -1))
    assert np.array_equal(levels(picture.pixels, 2**depth - 1)[..., : values.shape[2]], values)
    assert picture.depth == depth
    write(folder / "b.png", picture.pixels, picture)
    assert Image.open(folder / "b.png").mode == ("RGBA" if colour or depth == 16 else "LA")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_the_first_frame_is_read(folder, suffix):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(folder / f"m.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(levels(read(folder / f"m.{suffix}").pixels), np.broadcast_to([255, 0, 0], (4, 4, 3)))


# -- what is refused


def test_unusable_files(folder, monkeypatch):
    whole = encoded(Image.fromarray(noise(40, 40, 3)), "PNG")
    assert "does not exist" in refused(folder / "none.png")
    assert "is a folder" in refused(folder)
    assert "0 bytes" in refused(put(folder / "a.png", b""))
    assert "truncated" in refused(put(folder / "a.png", whole[:2000]))
    assert "not a picture" in refused(put(folder / "a.png", b"once upon a time"))
    assert "not a picture" in refused(put(folder / "a\nb.png", b"x"))
    for kind in ("GIF", "BMP"):
        assert (
            np.abs(levels(read(put(folder / "a.png", encoded(Image.new("L", (3, 3), 9), kind))).pixels) - 9).max() == 0
        )
    assert "damaged" in refused(put(folder / "a.png", whole[:20]))
    assert "cannot be read" in refused(put(folder / "a.png", whole) / "b.png")
    assert "cannot be read" in refused("a\0.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        assert "not a regular file" in refused(folder / "pipe.png")

    def denied(*_):  # a superuser may read anything, so the refusal is made up
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert "Permission denied" in refused(folder / "a.png")


def test_channels_are_one_or_three(folder):
    with pytest.raises(ValueError, match="channels 1 or 3, got 4"):
        read(folder / "a.png", channels=4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_huge_header_is_refused_before_decoding(folder, kind):
    data = bytearray(encoded(Image.new("L", (1000, 1001)), kind))
    if kind == "PNG":
        data = bytearray(png(60000, 60000, 8, 0, []))
    elif kind == "JPEG":
        at = data.index(struct.pack(">HH", 1001, 1000))
        data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    else:
        for tag, side in ((256, 1000), (257, 1001)):
            entry = struct.pack("<HHII", tag, 4, 1, side)
            assert entry in data
            data = bytearray(bytes(data).replace(entry, struct.pack("<HHII", tag, 4, 1, 60000)))
    before = Image.MAX_IMAGE_PIXELS
    assert "limit of 300 megapixels" in refused(put(folder / "huge.png", data))
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_can_be_moved_and_pillows_own_says_nothing(folder, monkeypatch):
    Image.new("L", (20, 20)).save(folder / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow would refuse twice this
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(folder / "a.png").pixels.shape[-2:] == (20, 20)
        assert read(folder / "a.png", limit=400).pixels.shape[-2:] == (20, 20)
    assert "limit of 0.000398 megapixels" in refused(folder / "a.png", limit=398)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_reading_in_threads_leaves_pillow_as_it_was(folder):
    Image.fromarray(noise(64, 64, 3)).save(folder / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [read(folder / "a.png") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


# -- damage


def samples():
    colour, grey = Image.fromarray(noise(24, 20, 3) // 64 * 64), Image.fromarray(noise(24, 20))
    deep, clear = Image.fromarray(noise(24, 20, dtype=np.uint16)), Image.fromarray(noise(24, 20, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
    return [
        encoded(colour, "PNG", exif=exif, icc_profile=SRGB),
        encoded(deep, "PNG"),
        encoded(colour.convert("P"), "PNG"),
        encoded(colour, "JPEG", exif=exif, icc_profile=SRGB),
        encoded(colour, "JPEG", progressive=True),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(grey, "JPEG"),
        encoded(colour, "WEBP", exif=exif),
        encoded(clear, "WEBP", lossless=True),
        encoded(colour, "TIFF", exif=exif),
        encoded(colour, "TIFF", compression="tiff_lzw"),
        encoded(colour, "TIFF", compression="tiff_deflate"),
        encoded(colour, "TIFF", compression="jpeg"),
        encoded(deep, "TIFF"),
        encoded(grey.convert("F").point(lambda v: v / 255), "TIFF"),
    ]


SAMPLES = samples()


def attempt(path, data):
    """Reads `data`: a sound Picture, or None if it is refused as it should be. Anything else raised fails the test."""
    try:
        picture = read(put(path, data))
    except BadInput:
        return None
    assert picture.pixels.isfinite().all()
    assert picture.pixels.abs().max() <= 1
    assert picture.alpha is None or picture.alpha.shape[-2:] == picture.pixels.shape[-2:]
    return picture


@settings(LIGHT, max_examples=300)
@given(st.sampled_from(range(len(SAMPLES))), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_or_whole(folder, which, part):
    data = SAMPLES[which]
    picture, whole = attempt(folder / "t", data[: int(len(data) * part)]), attempt(folder / "w", data)
    assert whole is not None
    assert picture is None or torch.equal(picture.pixels, whole.pixels)


def test_every_late_truncation_is_refused_or_whole(folder):
    for data in SAMPLES:
        whole = attempt(folder / "w", data)
        for cut in range(1, 24):
            picture = attempt(folder / "t", data[:-cut])
            assert picture is None or torch.equal(picture.pixels, whole.pixels)


@settings(LIGHT, max_examples=200)
@given(st.sampled_from([b"", *raster._MAGIC, b"II*\0\x08\0\0\0", b"RIFF\x40\0\0\0WEBPVP8 "]), st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(folder, magic, data):
    attempt(folder / "r", magic + data)


def test_damage_prints_nothing(folder, capfd):
    for data in SAMPLES[:9]:  # not TIFF: libtiff speaks for itself
        for cut in range(10, len(data), max(1, len(data) // 20)):
            attempt(folder / "q", data[:cut])
            attempt(folder / "q", data[:cut] + b"\xff\x01" + data[cut + 2 :])
    assert capfd.readouterr() == ("", "")


# -- writing


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp", "a.tif", "a.TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_suffix_writes_what_it_says(tmp_path, name, channels):
    pixels = torch.linspace(-1, 1, 32).expand(1, channels, 16, 32)
    write(tmp_path / name, pixels)
    assert os.listdir(tmp_path) == [name]
    with Image.open(tmp_path / name) as image:
        assert image.format == images.FORMATS[Path(name).suffix.lower()]
        assert image.mode == ("RGB" if channels == 3 or image.format == "WEBP" else "L")
        assert np.abs(np.asarray(image.convert("L"))[0] - np.linspace(0, 255, 32)).max() <= 2
        if image.format == "JPEG" and channels == 3:
            assert JpegImagePlugin.get_sampling(image) == 0


def test_values_are_clamped_and_rounded(tmp_path):
    pixels = torch.tensor([-9.0, -1, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 1, 9]).view(1, 1, 7)
    write(tmp_path / "a.png", pixels)
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[0, 0, 0, 1, 255, 255, 255]]
    assert np.asarray(to_pil(pixels[None].bfloat16()))[0, [0, -1]].tolist() == [0, 255]


def test_alpha_fits_the_result(tmp_path):
    alpha = torch.zeros(1, 1, 4, 6)
    alpha[..., 3:] = 1
    like = Picture(torch.zeros(1, 3, 4, 6), alpha)
    for suffix in ("png", "webp", "tif"):
        write(tmp_path / f"a.{suffix}", torch.zeros(1, 3, 8, 12), like)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert (image.mode, image.size) == ("RGBA", (12, 8))
            assert np.asarray(image)[:, [0, -1], 3].tolist() == [[0, 255]] * 8
    write(tmp_path / "a.jpg", torch.zeros(1, 3, 8, 12), like)
    assert Image.open(tmp_path / "a.jpg").mode == "RGB"


def test_a_grey_original_makes_a_grey_result_unless_told(tmp_path):
    like = Picture(torch.zeros(1, 3, 2, 2), grey=True)
    pixels = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    write(tmp_path / "a.png", pixels, like)
    image = Image.open(tmp_path / "a.png")
    assert (image.mode, image.getpixel((0, 0))) == ("L", 76)
    write(tmp_path / "a.png", pixels, like._replace(grey=False))
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4), (4, 4), (1, 3, 0, 4)])
def test_other_shapes_are_the_callers_mistake(tmp_path, shape):
    with pytest.raises(ValueError, match="expected an image") as caught:
        write(tmp_path / "a.png", torch.zeros(shape))
    assert not isinstance(caught.value, BadInput)


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinite"):
        write(tmp_path / "a.png", torch.full((1, 3, 2, 2), torch.nan))
    assert os.listdir(tmp_path) == []


def test_unusable_places(tmp_path):
    pixels, file = torch.zeros(1, 3, 2, 2), put(tmp_path / "file.png", b"kept")
    (tmp_path / "folder.png").mkdir()
    for name, words in [
        ("a.bmp", "png .jpg"),
        ("a", "no known picture suffix"),
        ("none/a.png", "No such file"),
        ("file.png/a.png", "Not a directory"),
        ("folder.png", "Is a directory"),
        ("/proc/a.png", "cannot be written"),
        ("a\0.png", "cannot be written"),
        ("x" * 300 + ".png", "too long"),
    ]:
        with pytest.raises(BadInput, match=words) as caught:
            write(tmp_path / name, pixels)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file.png", "folder.png"]
    assert file.read_bytes() == b"kept"


@pytest.mark.parametrize(("suffix", "side"), [("webp", 16384), ("jpg", 65536)])
def test_a_size_the_format_cannot_hold(tmp_path, suffix, side):
    with pytest.raises(BadInput, match="does not fit") as caught:
        write(tmp_path / f"a.{suffix}", torch.zeros(1, 1, 1, side))
    assert "write a .png" in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("broken", ["replace", "disk"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    write(tmp_path / "a.png", torch.zeros(1, 3, 2, 2))
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:

        def half(path, data):
            with open(path, "wb") as file:
                file.write(data[: len(data) // 2])
            full()

        monkeypatch.setattr(Path, "write_bytes", half)
    for call in (lambda p: write(p, torch.ones(1, 3, 2, 2)), lambda p: write_json(p, {})):
        with pytest.raises(BadInput, match="No space left"):
            call(tmp_path / "a.png")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_links_and_the_umask_are_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.png").symlink_to(tmp_path / "real" / "b.png")
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.png", torch.zeros(1, 3, 2, 2))
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").is_symlink()
    assert stat.S_IMODE((tmp_path / "real" / "b.png").stat().st_mode) == 0o640


def test_the_same_result_is_the_same_file(tmp_path):
    pixels = torch.rand(1, 3, 9, 9) * 2 - 1
    for suffix in ("png", "jpg", "webp", "tif"):
        write(tmp_path / f"a.{suffix}", pixels)
        write(tmp_path / f"b.{suffix}", pixels[0])
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_check_writable(tmp_path, monkeypatch):
    check_writable(tmp_path)
    check_writable(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_writable("")
    assert os.listdir(tmp_path) == []
    file = put(tmp_path / "file", b"")
    for bad, words in [
        (tmp_path / "none", "make it first"),
        (file, "Not a directory"),
        ("/proc", "/proc"),
        ("\0", "null"),
    ]:
        with pytest.raises(BadInput, match=words):
            check_writable(bad)


def test_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"z": 1, "a": {"é": [1.5, None], "b": "\udcff"}})
    text = path.read_bytes()
    assert (
        text
        == '{\n  "a": {\n    "b": "\\udcff",\n    "é": [\n      1.5,\n      null\n    ]\n  },\n  "z": 1\n}\n'.encode()
    )
    assert json.loads(text) == {"z": 1, "a": {"é": [1.5, None], "b": "\udcff"}}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"psnr": float("inf")})
    with pytest.raises(BadInput):
        write_json(tmp_path / "none" / "a.json", {})
    assert path.read_bytes() == text
    assert os.listdir(tmp_path) == ["a.json"]


# -- the example pictures


def test_examples_are_what_their_script_makes(tmp_path):
    pytest.importorskip("skimage")
    examples = Path(__file__).parents[2] / "examples"
    script = put(tmp_path / "make.py", (examples / "make.py").read_bytes())
    subprocess.run([sys.executable, script], check=True)
    made = {path.name: np.asarray(Image.open(path)) for path in tmp_path.glob("*.png")}
    kept = {path.name: np.asarray(Image.open(path)) for path in examples.glob("*.png") if path.name in made}
    assert len(made) == len(kept) == 7
    for name in made:
        assert np.abs(made[name].astype(int) - kept[name]).max() <= 1, name  # rounding may differ between machines
    assert set(np.unique(made["chelsea_mask.png"])) == {0, 255}
    assert sum(path.stat().st_size for path in examples.iterdir()) < 1_000_000
