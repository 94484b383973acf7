"""What a file says beside its pixels, field by field, before and after a picture was read and written: by exiftool, and by Pillow."""

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import pyvips
from PIL import ExifTags, Image, ImageCms, IptcImagePlugin, PngImagePlugin

from flowhelm import exif
from flowhelm.app.files.pictures import read, write
from flowhelm.interfaces.cli import main

KINDS = ("a.jpg", "a.png", "deep.png", "a.tif", "deep.tif", "a.webp")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GIVEN = [
    *("EXIF:Make=Canon", "EXIF:Model=EOS", "EXIF:Artist=José", "EXIF:Copyright=© someone", "EXIF:ImageDescription=A café"),
    *("EXIF:Software=Editor 2", "EXIF:UserComment=Grüße 你好", "EXIF:DateTimeOriginal=2020:01:02 03:04:05"),
    *("EXIF:CreateDate=2020:01:02 03:04:06", "EXIF:ModifyDate=2021:01:02 03:04:07", "EXIF:OffsetTimeOriginal=+02:00"),
    *("EXIF:SubSecTimeOriginal=12", "EXIF:ISO=200", "EXIF:ExposureTime=1/250", "EXIF:FNumber=2.8", "EXIF:LensModel=35mm f/2"),
    *("EXIF:GPSLatitude=48.8583", "EXIF:GPSLatitudeRef=N", "EXIF:GPSLongitude=2.2945", "EXIF:GPSLongitudeRef=W"),
    *("EXIF:GPSAltitude=35.5", "EXIF:GPSDateStamp=2020:01:02", "EXIF:Orientation#=6", "EXIF:Rating=4", "EXIF:XPTitle=Títle"),
    *("EXIF:XResolution=300", "EXIF:YResolution=300", "EXIF:ResolutionUnit=inches"),
    *("XMP:Rating=4", "XMP-dc:Subject=dog", "XMP-dc:Subject=čat", "XMP-dc:Creator=José", "XMP-xmp:CreatorTool=Editor 2"),
    *("IPTC:CodedCharacterSet=UTF8", "IPTC:Keywords=dog", "IPTC:Keywords=čat", "IPTC:By-line=José", "IPTC:City=Zürich"),
]  # fmt: skip
LAYOUT = ("SourceFile", "File:", "System:", "ExifTool:", "IFD1:", "ICC", "Composite:", "RIFF:", "PNG:", "PNG-pHYs:")
OF_TIFF = (
    *("ImageWidth", "ImageHeight", "BitsPerSample", "Compression", "PhotometricInterpretation", "StripOffsets", "SamplesPerPixel"),
    *("RowsPerStrip", "StripByteCounts", "PlanarConfiguration", "SampleFormat", "YCbCrPositioning"),
)  # fmt: skip
OWN = {  # of the picture that is written, not of the one that was read
    "IFD0:Orientation": {"Rotate 90 CW", "Horizontal (normal)"},
    "ExifIFD:ColorSpace": {"Uncalibrated", "sRGB"},
    "ExifIFD:ExifImageWidth": {24, 16},
    "ExifIFD:ExifImageHeight": {16, 24},
}


def pixels(name: str) -> np.ndarray:
    kind = np.uint16 if name.startswith("deep") else np.uint8
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (16, 24, 3)).astype(kind)


def stored(path: Path) -> None:
    """A photograph without a word."""
    values = pixels(path.name)
    image = pyvips.Image.new_from_array(values)
    image.copy(interpretation="rgb16" if values.dtype == np.uint16 else "srgb").write_to_file(str(path))


def seen(*paths: Path) -> list[dict[str, object]]:
    """What exiftool says of each, but for the layout of the file."""
    words = ["exiftool", "-json", "-G1", "-a", "-charset", "utf8", *map(str, paths)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert not any(name.endswith(":Warning") for each in found[1:] for name in each), found
    layout = {f"IFD0:{name}" for name in OF_TIFF}
    return [
        {name: value for name, value in each.items() if not name.startswith(LAYOUT) and name not in layout}
        for each in found
    ]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
@pytest.mark.parametrize("before", KINDS)
def test_every_field_survives_as_exiftool_sees_it(before, tmp_path, prior):
    stored(path := tmp_path / before)
    (tmp_path / "srgb.icc").write_bytes(SRGB)
    words = ["exiftool", "-q", "-overwrite_original", "-charset", "utf8", *(f"-{each}" for each in GIVEN)]
    subprocess.run([*words, f"-icc_profile<={tmp_path / 'srgb.icc'}", str(path)], capture_output=True, check=True)
    picture, outs = read(path), [tmp_path / f"out-{after}" for after in KINDS]
    for out in outs:
        write(out, picture.pixels, picture)
        assert read(out).icc == SRGB
    words = ["--operator", "denoise", "--std", "0.1", "--steps", "1", "--prior", prior, "--threads", "1"]
    assert main(["restore", str(path), *words]) == 0
    first, *others = seen(path, *outs, tmp_path / f"{path.stem}.restored.png")
    assert {"IFD0:Artist", "ExifIFD:UserComment", "GPS:GPSLatitude", "XMP-dc:Subject", "IFD0:Rating"} <= first.keys()
    for after, second in zip([*KINDS, "restored.png"], others, strict=True):
        lost = first.keys() - second.keys()
        if after.endswith("webp"):  # which has no place for it
            lost = {name for name in lost if not name.startswith("IPTC:")}
        if after.endswith("tif"):  # says its sides itself
            lost -= {"ExifIFD:ExifImageWidth", "ExifIFD:ExifImageHeight"}
        assert not lost, after
        changed = {name: second[name] for name in first if name in second and first[name] != second[name]}
        assert changed.keys() <= OWN.keys(), (after, changed)
        assert all(value in OWN[name] for name, value in changed.items()), after
        assert second["IFD0:Orientation"] == "Horizontal (normal)"


IPTC = b"\x1c\x01\x5a\x00\x03\x1b%G" + b"".join(
    b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text.encode())) + text.encode()
    for number, text in ((25, "dog"), (25, "čat"), (80, "José"), (90, "Zürich"))
)
XMP = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    "<rdf:Description xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='4' xmp:CreatorTool='Édit'/></rdf:RDF></x:xmpmeta>"
).encode()
MAIN = {
    271: b"Canon", 315: "José".encode(), 305: b"Editor 2", 306: b"2021:01:02 03:04:07", 18246: 4,
    33432: "© x".encode(),
}  # fmt: skip
PHOTO = {
    0x9286: b"UNICODE\0G\0r\0\xfc\0", 0x9003: b"2020:01:02 03:04:05", 0x8827: 200, 0x9011: b"+02:00",
    0xA434: b"35mm f/2",
}  # fmt: skip
PLACE = {1: b"N", 2: (48.0, 51.0, 29.88), 3: b"W", 4: (2.0, 17.0, 40.2), 6: 35.5, 29: b"2020:01:02"}


def made(path: Path) -> None:
    """The same by Pillow; TIFF and IPTC by our own hand, of which it does not write all."""
    told = Image.Exif()
    for tag, value in (*MAIN.items(), (0x0112, 6), (0x8769, PHOTO), (0x8825, PLACE)):
        told[tag] = value
    stored(path)
    if path.suffix == ".tif":
        image = pyvips.Image.new_from_file(str(path)).copy(xres=300 / 25.4, yres=300 / 25.4)
        for name, value in (("icc-profile-data", SRGB), ("xmp-data", XMP)):
            image.set_type(pyvips.GValue.blob_type, name, value)
        path.write_bytes(exif.placed(image.write_to_buffer(".tif"), "TIFF", exif.parsed(told.tobytes()), IPTC))
        return
    how = {"exif": told.tobytes(), "icc_profile": SRGB, "xmp": XMP, "dpi": (300, 300)}
    if path.suffix == ".png":
        words = PngImagePlugin.PngInfo()
        words.add_itxt("XML:com.adobe.xmp", XMP.decode())
        words.add_text("Author", "José")
        words.add_itxt("Comment", "你好")
        words.add_text("Creation Time", "now", zip=True)
        how["pnginfo"] = words
    with Image.open(path) as image:
        image.copy().save(path, **how)
    if path.suffix == ".jpg":
        data, body = path.read_bytes(), exif.iptc_in_jpeg(IPTC)
        path.write_bytes(data[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + data[2:])


def fields(path: Path) -> dict[str, object]:
    """What Pillow says."""
    with Image.open(path) as image:
        image.load()
        told = image.getexif()
        raw = lambda value: value.encode("latin-1") if isinstance(value, str) else value  # noqa: E731
        near = lambda value: tuple(map(float, value)) if isinstance(value, tuple) else raw(value)  # noqa: E731
        found: dict[str, object] = {f"main {tag}": raw(told.get(tag)) for tag in MAIN}
        found |= {f"photo {tag}": raw(told.get_ifd(ExifTags.IFD.Exif).get(tag)) for tag in PHOTO}
        found |= {f"place {tag}": near(told.get_ifd(ExifTags.IFD.GPSInfo).get(tag)) for tag in PLACE}
        found["dpi"] = tuple(round(float(side), 1) for side in image.info.get("dpi", ())) or None
        if path.suffix == ".webp":  # it says it in its EXIF
            found["dpi"] = (float(told[282]), float(told[283])) if 282 in told else None
        found["icc"] = image.info.get("icc_profile")
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or (told.get(700) or b"")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        xmp = xmp.replace(
            "Édit".encode().decode("latin-1").encode(), "Édit".encode()
        )  # an old Pillow takes it for Latin-1
        found["rating"], found["tool"] = b"xmp:Rating='4'" in xmp, "Édit".encode() in xmp
        found["orientation"] = told.get(0x0112, 1)
        found["iptc"] = None if path.suffix == ".png" else IptcImagePlugin.getiptcinfo(image)
    return found


@pytest.mark.parametrize("before", KINDS)
def test_every_field_survives_as_pillow_sees_it(before, tmp_path):
    made(path := tmp_path / before)
    first, picture = fields(path), read(path)
    assert first["main 315"] == "José".encode()
    assert first["orientation"] == (1 if path.suffix == ".tif" else 6)
    for after in KINDS:
        write(out := tmp_path / f"out-{after}", picture.pixels, picture)
        second = fields(out)
        assert second["orientation"] == 1
        assert {name: second[name] for name in first if name.split()[0] in ("main", "photo")} == {
            name: value for name, value in first.items() if name.split()[0] in ("main", "photo")
        }, after
        for tag in PLACE:
            assert second[f"place {tag}"] == (
                pytest.approx(first[f"place {tag}"]) if tag in (2, 4, 6) else first[f"place {tag}"]
            )
        assert second["icc"] == SRGB
        assert second["rating"]
        assert second["tool"]
        if first["dpi"] is not None:
            assert second["dpi"] == pytest.approx((300, 300), abs=0.1), after
        if before in ("a.jpg", "a.tif", "deep.tif"):
            assert read(out).fields.get("iptc-data", (0, None))[1] == (None if after == "a.webp" else IPTC), after
            if Path(after).suffix in (".jpg", ".tif"):
                assert second["iptc"][(2, 90)] == "Zürich".encode(), after
    texts = {"Author": "José", "Comment": "你好", "Creation Time": "now"}
    if path.suffix == ".png":
        with Image.open(tmp_path / "out-a.png") as again:
            assert {name: again.text[name] for name in texts} == texts


def test_a_view_of_the_camera_and_its_own_notes_are_left_out(tmp_path):
    told = Image.Exif()
    told[0x8769] = {0x927C: b"Maker's own" * 10, 0x8827: 200, 0xA002: 99}
    told[50706] = b"\1\4\0\0"  # else the result would call itself a DNG
    stored(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(
        exif.placed((tmp_path / "a.tif").read_bytes(), "TIFF", exif.parsed(told.tobytes()))
    )
    with Image.open(tmp_path / "a.tif") as image:
        assert image.getexif()[50706] == b"\1\4\0\0"
    picture = read(tmp_path / "a.tif")
    for after in ("b.jpg", "b.tif"):
        write(tmp_path / after, picture.pixels, picture)
        with Image.open(tmp_path / after) as image:
            again = image.getexif()
            assert 50706 not in again
            assert again.get_ifd(ExifTags.IFD.Exif).get(0x8827) == 200
            assert 0x927C not in again.get_ifd(ExifTags.IFD.Exif)
            assert again.get_ifd(ExifTags.IFD.Exif).get(0xA002, 24) == 24
            assert not again.get_ifd(ExifTags.IFD.IFD1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_block_comes_back_as_it_was(order):
    part = {1: exif.Entry(2, 2, b"N\0"), 2: exif.Entry(5, 3, bytes(range(24))), 9: exif.Entry(7, 3, b"abc")}
    whole = exif.Exif(order, {271: exif.Entry(2, 6, b"Canon\0"), 274: exif.Entry(3, 1, b"\1\0")}, part, {7: part[2]})
    again = exif.parsed(exif.block(whole))
    assert again is not None
    assert {k: again.main[k] for k in whole.main} == whole.main
    assert again[2:] == whole[2:]
    for cut in range(len(exif.block(whole))):  # damaged: what is whole of it
        exif.parsed(exif.block(whole)[:cut])
