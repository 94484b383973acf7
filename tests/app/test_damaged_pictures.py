"""Damaged photographs, masks and kernels: read, or refused in one sentence, within a bounded memory and time.

pytest tests/app/test_damaged_pictures.py -s                           a few hundred, and how they ended
FLOWHELM_DAMAGED=10000 pytest tests/app/test_damaged_pictures.py -s    so many
"""

import os
import random
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from damage import broken
from PIL import Image

from flowhelm import operators, raster
from flowhelm.app.errors import BadInput
from flowhelm.app.files import pictures

COUNT = int(os.environ.get("FLOWHELM_DAMAGED", "600"))
LONG = 20.0  # seconds of this process
MEMORY = 1.0  # GiB, that this process may grow by
NUMBERS = (0, 1, 2, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def samples(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """One of each kind of file, and how it is read."""
    chance = np.random.default_rng(0)
    colours, alpha = chance.integers(0, 256, (16, 12, 3), np.uint8), chance.integers(0, 256, (16, 12, 4), np.uint8)
    rgb, rgba, grey = Image.fromarray(colours), Image.fromarray(alpha), Image.fromarray(colours[..., 0])
    exif = Image.Exif()
    exif[271], exif[0x0112], exif[0x8769] = "Canon", 6, {0xA001: 65535, 0xA005: {1: "R03"}}
    icc = raster._made(1.8, raster._ADOBE, 3)
    cmyk = Image.fromarray(alpha, "CMYK")
    deep = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    mode = {
        "photo.png": (rgb, {"icc_profile": icc, "exif": exif, "dpi": (300, 300)}),
        "photo-alpha.png": (rgba, {}),
        "photo-deep.png": (deep, {}),
        "photo-palette.png": (rgb.quantize(16), {"transparency": 3}),
        "photo.jpg": (rgb, {"exif": exif, "icc_profile": icc}),
        "photo-cmyk.jpg": (cmyk, {}),
        "photo.tif": (rgb, {"dpi": (300, 300), "compression": "tiff_lzw"}),
        "photo-pages.tif": (rgb.copy(), {"save_all": True, "append_images": [grey, rgba]}),
        "photo-lab.tif": (Image.fromarray(colours, "LAB"), {}),
        "photo-float.tif": (Image.fromarray(colours[..., 0].astype(np.float32) / 255), {}),
        "photo.webp": (rgba, {"lossless": True, "exif": exif}),
        "photo.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        "photo.bmp": (rgb, {}),
        "photo.avif": (rgb, {}),
        "mask.png": (rgba, {}),
        "mask-deep.png": (deep, {}),
        "mask.jpg": (grey, {"dpi": (72, 72)}),
        "mask.tif": (Image.fromarray(colours[..., 0].astype(np.float32)), {}),
        "mask.webp": (rgb, {"lossless": True}),
        "kernel.png": (rgba.crop((0, 0, 5, 5)), {}),
        "kernel.tif": (grey.crop((0, 0, 5, 5)), {}),
    }
    for name, (image, how) in mode.items():
        image.copy().save(folder / name, **how)
    np.save(folder / "kernel.npy", chance.random((5, 5)))
    np.savez(folder / "kernel.npz", chance.random((5, 5)))
    np.savez_compressed(folder / "kernel-packed.npz", chance.random((5, 5)))
    how = {
        "photo": pictures.read,
        "mask": lambda path: operators.inpaint((3, 16, 12), mask=path),
        "kernel": lambda path: operators.motion((3, 16, 12), kernel=path),
    }
    return {path.name: (path, how[path.name.split(".")[0].split("-")[0]]) for path in sorted(folder.iterdir())}


def damage(data: bytes, chance: random.Random) -> bytes:
    """Any bytes; or a number of the head; of a PNG with sums that are right again, else nothing behind them would be looked at."""
    found = bytearray(broken(data, chance) if chance.random() < 0.5 else data)
    if bytes(found) == data and len(found) > 64:
        at, size = chance.randrange(8, min(len(found), 400) - 4), chance.choice("BHI")
        order = chance.choice("<>")
        number = chance.choice(NUMBERS) % 2 ** (8 * struct.calcsize(size))
        struct.pack_into(order + size, found, at, number)
    if data.startswith(b"\x89PNG") and chance.random() < 0.7:
        at = 8
        while at + 12 <= len(found):
            (length,) = struct.unpack(">I", found[at : at + 4])
            if at + 12 + length > len(found):
                break
            body = bytes(found[at + 4 : at + 8 + length])
            found[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(body))
            at += 12 + length
    return bytes(found)


def test_damaged_pictures_are_read_or_refused(tmp_path, capfd):
    (tmp_path / "whole").mkdir()
    known = samples(tmp_path / "whole")
    for path, read in known.values():
        read(path)
    threads, before = torch.get_num_threads(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ended, faults = Counter[str](), list[str]()
    for name, (path, read) in known.items():
        data, target = path.read_bytes(), tmp_path / name
        for number in range(max(1, COUNT // len(known))):
            seed, began = f"{name} {number}", time.process_time()
            target.write_bytes(damage(data, random.Random(seed)))
            try:
                read(target)
                ended[f"{name} read"] += 1
            except (BadInput, ValueError) as error:
                ended[f"{name} refused"] += 1
                if "\n" in str(error) or len(str(error)) > 1000 or name not in str(error):
                    faults.append(f"{seed}: {type(error).__name__}: {error}")
            except Exception as error:
                faults.append(f"{seed}: {type(error).__name__}: {error}")
            if time.process_time() - began > LONG:
                faults.append(f"{seed}: {time.process_time() - began:.0f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    with capfd.disabled():
        print(f"\ndamaged pictures: {sum(ended.values())}, {grown:.2f} GiB more, {dict(sorted(ended.items()))}")
    assert not faults, "\n".join([f"{len(faults)} faults", *faults[:20]])
    assert grown < MEMORY
    assert torch.get_num_threads() == threads
    assert {path.name for path in tmp_path.iterdir()} == {"whole", *known}
