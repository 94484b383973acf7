"""Camera raw and pictures of phones, made here: DNG with a small view in front, AVIF of 8 and 10 bits, HEIC that no wheel decodes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips
from encoded import encoded
from PIL import Image

from flowhelm import exif, raster
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import decode, read, write

tifffile = pytest.importorskip("tifffile")
LEVELS = (0.05, 0.1, 0.2, 0.4)
SIDE = 64


def dng(path: Path, *, orientation: int = 1, first: bool = True) -> Path:
    """A sensor's mosaic of four grey stripes and a bright one; `first`: a small view stands in front of it, as cameras have it."""
    stripes = np.repeat([*LEVELS, 0.9], (24, 24, 24, 20, 4))
    raw = np.broadcast_to((stripes * 16383).round().astype(np.uint16), (SIDE, 96)).copy()
    view = np.full((8, 12, 3), 200, np.uint8)
    told = [
        (50706, "B", 4, (1, 4, 0, 0), True), (50707, "B", 4, (1, 1, 0, 0), True), (50708, "s", 0, "Maker One", True),
        (271, "s", 0, "Maker", True), (272, "s", 0, "One", True), (274, "H", 1, orientation, True), (315, "s", 0, "Ann", True),
        (50721, "2i", 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True), (50728, "2I", 3, (1,) * 6, True),
        (50778, "H", 1, 21, True),
    ]  # fmt: skip
    mosaic = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
        (50714, "H", 1, 0, True),
        (50717, "H", 1, 16383, True),
    ]
    with tifffile.TiffWriter(path, byteorder="<") as file:
        if first:
            file.write(view, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=told)
        file.write(raw, photometric=32803, subfiletype=0, metadata=None, extratags=mosaic + ([] if first else told))
    return path


def light(pixels: np.ndarray) -> np.ndarray:
    """Of sRGB, from [-1, 1]."""
    level = (pixels + 1) / 2
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["a.dng", "a.nef", "a.tif"])
def test_a_sensors_mosaic_is_developed_and_no_small_view_taken_for_it(name, first, tmp_path):
    pytest.importorskip("rawpy")
    picture = read(dng(tmp_path / name, first=first))
    assert picture.pixels.shape == (1, 3, SIDE, 96)
    assert (picture.depth, picture.grey) == (16, False)
    assert "developed with the camera's white balance" in picture.note
    # a neutral sensor's greys are grey, and their light has the ratios that the sensor saw, whatever the brightness
    seen = light(picture.pixels[0, :, SIDE // 2].double().numpy())[:, [12, 36, 60, 82]]
    assert np.abs(seen - seen[1]).max() < 2e-3
    ratios = seen[1] / seen[1, 0]
    assert ratios == pytest.approx(np.array(LEVELS) / LEVELS[0], rel=0.02)
    write(tmp_path / "b.tif", picture.pixels, picture)
    with Image.open(tmp_path / "b.tif") as image:
        again = image.getexif()
    assert (again[271], again[315]) == ("Maker", "Ann")
    assert 50706 not in again
    assert decode((tmp_path / name).read_bytes()).pixels.shape == (1, 3, SIDE, 96)  # an upload has no name


def test_a_raw_picture_is_turned_as_its_camera_was(tmp_path):
    pytest.importorskip("rawpy")
    upright, turned = read(dng(tmp_path / "a.dng")), read(dng(tmp_path / "b.dng", orientation=6))
    assert turned.pixels.shape == (1, 3, 96, SIDE)
    assert np.abs(np.rot90(upright.pixels[0, 0].numpy(), -1) - turned.pixels[0, 0].numpy()).max() < 0.02


def test_without_the_extra_it_is_one_sentence_and_never_the_small_view(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    for name in ("a.dng", "a.nef", "a.tif"):
        with pytest.raises(BadInput, match=r"camera's raw picture, which needs rawpy: pip install 'flowhelm\[raw\]'"):
            read(dng(tmp_path / name))
    # a DNG that is an ordinary TIFF needs nothing
    large, small = (Image.new("RGB", size, (9, 99, 200)) for size in ((40, 30), (8, 6)))
    small.save(tmp_path / "b.dng", "TIFF", save_all=True, append_images=[large])
    assert read(tmp_path / "b.dng").pixels.shape[-2:] == (30, 40)


def test_a_damaged_raw_picture_is_one_sentence(tmp_path):
    whole = dng(tmp_path / "a.dng").read_bytes()
    for cut in (300, 500, 700):  # of its directories something is missing
        (tmp_path / "c.dng").write_bytes(whole[:cut])
        with pytest.raises(BadInput, match=r"^[^\n]*c\.dng[^\n]*$"):
            read(tmp_path / "c.dng")


def test_a_raw_picture_is_held_to_the_memory_that_it_may_take(tmp_path):
    pytest.importorskip("rawpy")
    with raster.within(1e5), pytest.raises(BadInput, match="of memory, more than the 100 kB"):
        read(dng(tmp_path / "a.dng"))


def colours(kind: type = np.uint8) -> np.ndarray:
    y, x = np.mgrid[0:32, 0:48]
    top = np.iinfo(kind).max
    return (np.stack([x / 47, y / 31, (x + y) / 78], -1) * top).round().astype(kind)


@pytest.mark.parametrize("bits", [8, 10])
def test_avif_is_read_as_it_was_written(bits, tmp_path):
    values = colours(np.uint8 if bits == 8 else np.uint16)
    image = pyvips.Image.new_from_array(values).copy(interpretation="srgb" if bits == 8 else "rgb16")
    try:
        image.heifsave(str(tmp_path / "a.avif"), compression="av1", lossless=True, bitdepth=bits)
    except pyvips.Error:
        pytest.skip("this libvips does not write AVIF")
    picture = read(tmp_path / "a.avif")
    assert picture.depth == (8 if bits == 8 else 16)
    want = values / np.iinfo(values.dtype).max * 2 - 1
    assert np.abs(picture.pixels[0].permute(1, 2, 0).numpy() - want).max() <= 2.5 / 2**bits * 2


def test_avif_is_turned_and_keeps_its_words(tmp_path):
    told = Image.Exif()
    told[271], told[0x0112] = "Phone", 6
    told[0x8769] = {0x8827: 200}
    Image.fromarray(colours()).save(tmp_path / "a.avif", exif=told.tobytes(), quality=95)
    picture = read(tmp_path / "a.avif")
    assert picture.pixels.shape[-2:] == (48, 32)
    write(tmp_path / "b.png", picture.pixels, picture)
    with Image.open(tmp_path / "b.png") as image:
        again = image.getexif()
        assert again[271] == "Phone"
        assert again.get(0x0112, 1) == 1
        assert again.get_ifd(0x8769)[0x8827] == 200


def test_heic_is_named_as_what_it_is(tmp_path):
    """The head of a file of a phone, whose decoder no wheel may bring."""
    brand = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "a.heic").write_bytes(brand + b"\0\0\0\x08meta" + bytes(200))
    with pytest.raises(
        BadInput, match=r"is HEIC, which the libvips that pip installs does not read; save it as JPEG or AVIF"
    ):
        read(tmp_path / "a.heic")


def test_no_ordinary_tiff_is_taken_for_a_mosaic(tmp_path):
    for k, name in enumerate(("a.tif", "b.tif")):
        Image.fromarray(colours()).save(tmp_path / name, save_all=bool(k), append_images=[Image.new("L", (3, 3))])
        assert not exif.is_mosaic((tmp_path / name).read_bytes())
    assert not exif.is_mosaic(encoded(colours()))
