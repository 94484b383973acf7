"""Masks, kernels and photographs as real programs write them: each is read as it is meant, or refused in one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from encoded import chunk
from PIL import Image, ImageCms

from flowhelm import operators, raster
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import read, write

CHANCE = np.random.default_rng(0)
PHOTO = CHANCE.integers(0, 256, (16, 12, 3), np.uint8)


def kept(path, shape=(3, 16, 12), **options):
    """1 where a mask file says that a pixel is known."""
    return operators.inpaint(shape, mask=path, **options).A(torch.ones(1, *shape))[0, 0]


def chunked(path, *chunks):
    """Puts chunks into a PNG, after its head."""
    data = path.read_bytes()
    made = b"".join(chunk(*each) for each in chunks)
    path.write_bytes(data[:33] + made + data[33:])
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_in_a_mask_is_missing(mode, tmp_path):
    alpha = np.full((16, 12), 255, np.uint8)
    alpha[3:7, 2:9] = 0
    if mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([200, 10, 10, 9, 9, 9])
        image.save(tmp_path / "m.png", transparency=bytes([255, 0]))
    else:
        colours = PHOTO if mode == "RGBA" else PHOTO[..., :1]
        Image.fromarray(np.concatenate([colours, alpha[..., None]], 2)).save(tmp_path / "m.png")
    assert np.array_equal(kept(tmp_path / "m.png").numpy() == 0, alpha == 0)
    assert np.array_equal(kept(tmp_path / "m.png", invert_mask=True).numpy() == 1, alpha == 0)


def test_a_mask_of_any_depth_splits_at_half(tmp_path):
    soft = np.linspace(0, 1, 16 * 12).reshape(16, 12)
    Image.fromarray((soft * 255).round().astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray((soft * 65535).round().astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(soft.astype(np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray((soft * 255).astype(np.float32)).save(tmp_path / "levels.tif")
    for name in ("8.png", "16.png", "unit.tif", "levels.tif"):
        assert np.array_equal(kept(tmp_path / name).numpy() == 1, soft >= 0.5), name
    weight = operators.inpaint((3, 16, 12), mask=tmp_path / "16.png").weight[0].numpy()
    edge = (soft > 0.03) & (soft < 0.97)
    assert np.allclose(weight[edge], soft[edge], atol=1e-4)
    Image.fromarray(((soft >= 0.5) * 255).astype(np.uint8)).save(tmp_path / "hard.png")
    assert operators.inpaint((3, 16, 12), mask=tmp_path / "hard.png").weight is None


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_masks_are_turned_as_exif_says(orientation, tmp_path):
    upright = np.zeros((16, 12), np.uint8)
    upright[:5, 3:] = 255
    stored = {3: np.rot90(upright, 2), 6: np.rot90(upright, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "m.png", exif=exif)
    assert np.array_equal(kept(tmp_path / "m.png").numpy() == 1, upright == 255)


def test_a_kernel_may_be_drawn_in_the_alpha_channel(tmp_path):
    trace = np.zeros((5, 5), np.uint8)
    trace[2, 1:4] = (50, 100, 50)
    want = torch.from_numpy(trace / 200).float()
    for grey in (255, 0):
        Image.fromarray(np.dstack([np.full((5, 5, 3), grey, np.uint8), trace])).save(tmp_path / "k.png")
        torch.testing.assert_close(operators.blur.traced(tmp_path / "k.png"), want)
    Image.fromarray(trace).save(tmp_path / "k.png")
    torch.testing.assert_close(operators.blur.traced(tmp_path / "k.png"), want)


@pytest.mark.parametrize(
    "values",
    [
        np.full((5, 5), 1e308), np.full((5, 5), 1e300), np.ones((5, 5), complex), np.ones((5, 5), "datetime64[s]"),
        np.ones((5, 5), "timedelta64[s]"), np.array([["a"]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_kernels_that_are_no_numbers_are_refused(values, packed, tmp_path):
    path = tmp_path / ("k.npz" if packed else "k.npy")
    np.savez(path, values) if packed else np.save(path, values)
    with pytest.raises(ValueError, match=r"motion: .*(sum|real numbers)"):
        operators.motion((3, 16, 12), kernel=path)


def lcms(pixels, profile):
    change = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB"
    )
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), change)).astype(float)


ADOBE = raster._made(563 / 256, raster._ADOBE, 3)


def levels(path):
    picture = read(path)
    return (picture.pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5


@pytest.mark.parametrize("primaries", [raster._ADOBE, raster._PRIMARIES[12], raster._PRIMARIES[9]])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 563 / 256])
def test_profiles_are_converted_as_lcms_does(primaries, gamma, tmp_path):
    profile = raster._made(gamma, primaries, 3)
    Image.fromarray(PHOTO).save(tmp_path / "p.png", icc_profile=profile)
    assert np.abs(levels(tmp_path / "p.png") - lcms(PHOTO, profile)).max() <= 1.5


def test_adobe_rgb_is_told_by_exif_alone(tmp_path):
    flat = np.full((16, 16, 3), (198, 44, 44), np.uint8)
    for space, index in ((65535, "R03"), (2, None)):
        exif = Image.Exif()
        exif[0x8769] = {0xA001: space} | ({0xA005: {1: index}} if index else {})
        Image.fromarray(flat).save(tmp_path / "a.jpg", quality=100, exif=exif)
        assert np.abs(levels(tmp_path / "a.jpg") - lcms(flat, ADOBE)).max() <= 2
        assert np.abs(levels(tmp_path / "a.jpg") - (230, 40, 40)).max() <= 8
        picture = read(tmp_path / "a.jpg")
        write(tmp_path / "b.jpg", picture.pixels, picture)
        assert np.abs(levels(tmp_path / "b.jpg") - levels(tmp_path / "a.jpg")).max() <= 3  # not converted again


def test_png_says_its_colours_in_chunks(tmp_path):
    xy = struct.pack(">8I", *(round(v * 1e5) for v in (*raster._ADOBE[6:], *raster._ADOBE[:6])))
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    chunked(tmp_path / "a.png", (b"gAMA", struct.pack(">I", round(1e5 * 256 / 563))), (b"cHRM", xy))
    want = lcms(PHOTO, raster._made(1e5 / round(1e5 * 256 / 563), raster._ADOBE, 3))
    assert np.abs(levels(tmp_path / "a.png") - want).max() <= 1.5
    Image.fromarray(PHOTO).save(tmp_path / "p3.png")
    chunked(tmp_path / "p3.png", (b"cICP", bytes([12, 13, 0, 1])))
    want = lcms(PHOTO, raster._made(raster._SRGB, raster._PRIMARIES[12], 3))
    assert np.abs(levels(tmp_path / "p3.png") - want).max() <= 1.5
    Image.fromarray(PHOTO).save(tmp_path / "usual.png")
    chunked(tmp_path / "usual.png", (b"gAMA", struct.pack(">I", 45455)))
    assert np.array_equal(levels(tmp_path / "usual.png").round(), PHOTO)


def test_a_small_view_in_front_is_passed_over(tmp_path):
    large, small = Image.fromarray(PHOTO), Image.fromarray(PHOTO[:4, :4])
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large])
    picture = read(tmp_path / "a.tif")
    assert picture.pixels.shape[-2:] == (16, 12)
    assert "page 2 is read" in picture.note
    assert read(tmp_path / "a.tif", page=1).pixels.shape[-2:] == (4, 4)
    with pytest.raises(BadInput, match="has 2 pages, got page 3"):
        read(tmp_path / "a.tif", page=3)
    large.save(tmp_path / "a.gif", save_all=True, append_images=[large.rotate(180)])
    assert "holds 2 pages; page 1" in read(tmp_path / "a.gif").note


def test_much_text_and_a_large_profile_are_no_damage(tmp_path):
    text = b"workflow\0\0" + zlib.compress(b'{"a": 1}' * 300_000)
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    assert np.array_equal(levels(chunked(tmp_path / "a.png", (b"zTXt", text))).round(), PHOTO)
    Image.fromarray(PHOTO).save(tmp_path / "b.png", icc_profile=ADOBE + bytes(1_200_000))
    assert read(tmp_path / "b.png").pixels.shape[-2:] == (16, 12)


def test_metadata_survive(tmp_path):
    exif = Image.Exif()
    exif[271], exif[315], exif[0x0112] = "Canon", "José".encode(), 6
    Image.fromarray(PHOTO).save(
        tmp_path / "a.jpg", exif=exif, dpi=(300, 300), xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    )
    picture = read(tmp_path / "a.jpg")
    for suffix in ("jpg", "png"):
        write(tmp_path / f"b.{suffix}", picture.pixels, picture)
        again = Image.open(tmp_path / f"b.{suffix}")
        found = again.getexif()
        assert found[271] == "Canon"
        assert found[315].encode("latin1") == "José".encode()
        assert found.get(0x0112, 1) == 1
        assert again.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        told = again.info.get("xmp") or again.info.get("XML:com.adobe.xmp") or ""  # PNG may compress it
        assert "xmpmeta" in (told.decode() if isinstance(told, bytes) else told)


def test_what_would_take_too_much_memory_is_refused_by_its_header(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "a.png")
    with raster.within(1e9), pytest.raises(raster.TooLarge, match=r"6.4 GB of memory"):
        raster.load((tmp_path / "a.png").read_bytes(), limit=1e9)
    Image.new("RGB", (3000, 3000)).save(tmp_path / "b.webp", lossless=True)
    with raster.within(1e8), pytest.raises(raster.TooLarge, match="scale it down"):
        raster.load((tmp_path / "b.webp").read_bytes())
