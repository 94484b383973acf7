"""Whatever bytes a picture, an archive or a stack has, and whatever a description says: a result or one sentence, and nothing left half.

pytest -m slow tests/app/test_fuzz_batch.py -s      10,000 cases each, and how they ended
"""

import contextlib
import io
import json
import math
import random
import shutil
import tarfile
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from damage import HARSH as HARSH_VALUES
from damage import broken, damaged
from encoded import encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

from flowhelm.app.batch.description import schema
from flowhelm.app.errors import BadInput
from flowhelm.app.files import stacks as sources
from flowhelm.interfaces.cli import main

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
LIMIT = 1_000_000
LONG = 20.0  # seconds, a hundred times what the slowest takes on a busy machine


def of_kind(kind: str, mode: str = "RGB", **more) -> bytes:
    return encoded(Image.fromarray(PIXELS).convert(mode), kind, **more)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return exif.tobytes()


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def _npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, volume=PIXELS[..., 0][None].repeat(2, 0), more=np.arange(3))
    return data.getvalue()


def _tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("a.png", "b/c.jpg"):
            content = of_kind("PNG" if name.endswith("png") else "JPEG")
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


FILES = {
    "rgb.png": of_kind("PNG"), "alpha.png": of_kind("PNG", "RGBA"), "palette.png": of_kind("PNG", "P"), "bits.png": of_kind("PNG", "1"),
    "deep.png": encoded(PIXELS[..., 0].astype(np.uint16) * 257),
    "exif.jpg": of_kind("JPEG", exif=_exif()), "grey.jpg": of_kind("JPEG", "L"),
    "cmyk.jpg": of_kind("JPEG", "CMYK"), "rgb.webp": of_kind("WEBP"), "lossless.webp": of_kind("WEBP", lossless=True),
    "rgb.tif": of_kind("TIFF"), "float.tif": encoded(PIXELS[..., 0].astype(np.float32) / 255, "TIFF"),
    "lzw.tif": of_kind("TIFF", compression="tiff_lzw"),
    "some.gif": of_kind("GIF", "P"), "s.npy": _npy(PIXELS[..., 0][None]), "f.npy": _npy(np.zeros((2, 4, 4), np.float32)),
    "s.npz": _npz(), "s.tar": _tar(),
}  # fmt: skip
HARSH = (
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00", b"99999999", b"\xff\xff", b"\x00",
)  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Broken, by large numbers too, and by parts of another file."""
    other = chance.choice(list(FILES.values()))
    begin = chance.randrange(len(other))
    return broken(data, chance, (*HARSH, *[other[begin : begin + chance.randrange(1, 200)]] * 7))


def read(name: str, seed: int, folder: Path) -> str:
    """How reading a mutated file ends: a valid picture, or a sentence."""
    chance = random.Random(f"{name} {seed}")
    path = folder / f"{seed}{Path(name).suffix}"
    path.write_bytes(mutated(FILES[name], chance))
    began = time.monotonic()
    try:
        photos = [str(path)]
        if path.suffix in sources.SUFFIXES:
            inner = sources.members(str(path), chance.choice((None, (0.0, 1.0))))
            photos = [f"{path}:{each}" for each in inner.names[:3]] or photos
        for photo in photos:
            sources.size(photo)
            with contextlib.suppress(BadInput):
                assert len(sources.sha256(photo)) == 64
            picture = sources.read(photo, channels=chance.choice((1, 3)), limit=LIMIT)
            assert picture.pixels.isfinite().all()
            assert picture.pixels.abs().max() <= 1
            assert picture.pixels.dtype == torch.float32
            assert picture.alpha is None or picture.alpha.shape[-2:] == picture.pixels.shape[-2:]
        return "read"
    except BadInput as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"in several lines: {error}"
    finally:
        assert time.monotonic() - began < LONG, path
        assert [each.name for each in folder.iterdir()] == [path.name]
        path.unlink()


def cases(count: int):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def pictures_of(count: int, folder: Path, capfd) -> Counter[str]:
    ended: Counter[str] = Counter()

    @cases(count)
    @given(some.sampled_from(sorted(FILES)), some.integers(0, 2**32))
    def each(name: str, seed: int) -> None:
        ended[read(name, seed, folder)] += 1

    each()
    with capfd.disabled():
        print(f"\nmutated pictures: {sum(ended.values())}, {dict(ended)}")
    return ended


def test_mutated_pictures(tmp_path, capfd):
    ended = pictures_of(200, tmp_path, capfd)
    assert set(ended) == {"read", "refused"}
    assert min(ended["read"], ended["refused"]) > 10  # or the mutations are too mild or too harsh to say anything


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutated_pictures_by_the_thousand(tmp_path, capfd):
    assert set(pictures_of(10_000, tmp_path, capfd)) == {"read", "refused"}


def test_the_files_are_whole(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        if name != "some.gif":
            photo = str(tmp_path / name)
            inner = sources.members(photo, (0, 1)).names if Path(name).suffix in sources.SUFFIXES else []
            sources.read(
                f"{photo}:{inner[0]}" if inner else photo, span=(0, 1) if name == "f.npy" else None, limit=LIMIT
            )


# --- HDF5, whose library is C: a fault of it would end this process, so that it has one of its own ---

H5 = """
import random, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import test_fuzz_batch as fuzz
fuzz.FILES["s.h5"] = Path(sys.argv[3]).read_bytes()
ended = {"read": 0, "refused": 0}
for seed in range(int(sys.argv[4])):
    print(seed, flush=True)
    ended[fuzz.read("s.h5", seed, Path(sys.argv[2]))] += 1
print(ended)
"""


def test_mutated_hdf5(tmp_path, capfd):
    hdf5(tmp_path, 100, capfd)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mutated_hdf5_by_the_thousand(tmp_path, capfd):
    hdf5(tmp_path, 3000, capfd)


def hdf5(folder: Path, count: int, capfd) -> None:
    import subprocess
    import sys

    (folder / "work").mkdir()
    with h5py.File(folder / "whole.h5", "w") as file:
        file.create_dataset("v", data=PIXELS[None, ..., 0], chunks=(1, 6, 8), compression="gzip")
    words = [str(Path(__file__).parent), str(folder / "work"), str(folder / "whole.h5"), str(count)]
    done = subprocess.run([sys.executable, "-c", H5, *words], capture_output=True, text=True)
    with capfd.disabled():
        print(f"\nmutated HDF5: {count}, {done.stdout.splitlines()[-1] if done.stdout else ''}")
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]


# --- descriptions, through the program ---

WRONG = [
    *(*HARSH_VALUES, "*", "in", "in/*", "in/p0.png", "{stem}", "in/s.npy", "in/s.npy:0000", "in/s.npy:9", "[", "in/[", "fashion"),
    *("adam:iterations=1", "adam:", "euler", "deblur", "jpeg", ["in"], ["in", "in"], {"std": 1}),
]  # fmt: skip
DEFAULTS = {name: each["default"] for name, each in schema()["properties"].items() if "default" in each}
COUNTS = ("steps", "samples", "draws", "particles", "iterations", "rounds", "factor")


def description(prior: str, chance: random.Random) -> dict:
    """One that is right, perhaps with all that may be set."""
    job: dict = DEFAULTS if chance.random() < 0.5 else {}
    job = job | {
        "inputs": "in",
        "operator": "denoise",
        "out": "out",
        "std": 0.1,
        "steps": 1,
        "prior": prior,
        "threads": 1,
    }
    return job | chance.choice(
        (
            {},
            {"operator": "deblur", "operator_options": {"sigma": 0.5, "border": "circular"}, "simulate": True},
            {"operator": "inpaint", "operator_options": {"mask": "in/p0.png"}},
            {"operator": "superres", "operator_options": {"factor": 2}, "method": "dps"},
            {"method": "mpc_flow", "method_options": {"inner": "adam:iterations=1", "renoise": 0.5}},
            {"method": "best_of", "method_options": {"draws": 1}},
            {"seeds": [0, 1], "samples": 1, "rows": 2, "tile": "auto"},
            {"inputs": ["in/s.npy"], "range": [0, 255]},
        )
    )


def takes_long(text: bytes) -> bool:
    """A run of a thousand steps or particles is no fault, but takes too long to be tried here."""
    try:
        job = json.loads(text)
    except (ValueError, RecursionError):
        return False
    whole = [job, *job.values()] if isinstance(job, dict) else []
    counts = [each.get(name) for each in whole if isinstance(each, dict) for name in COUNTS]
    return any(isinstance(each, int | float) and each > 50 for each in counts)


def through_main(seed: int, prior: str, base: Path) -> int:
    chance = random.Random(seed)
    job = description(prior, chance)
    if chance.random() < 0.6:
        job = damaged(job, chance, WRONG)
    text = json.dumps(job).encode()
    if chance.random() < 0.2:
        text = broken(text, chance)
    if takes_long(text):
        return 2
    path = base / "job.json"
    path.write_bytes(text)
    said, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(["batch", str(path)])
    assert status in (0, 1, 2), (status, text)
    assert "Traceback" not in said.getvalue(), (said.getvalue(), text)
    assert time.monotonic() - began < LONG, text
    half = [p for p in base.rglob(".*")]
    assert not half, (half, text)
    for line in (
        (base / "out" / "manifest.jsonl").read_text().splitlines() if (base / "out" / "manifest.jsonl").exists() else ()
    ):
        record = json.loads(line)
        if record["status"] == "done":
            with Image.open(base / "out" / record["output"]) as image:
                image.load()
    for each in base.iterdir():
        if each.name not in ("in", "job.json"):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    return status


def descriptions_of(count: int, prior: str, base: Path, monkeypatch, capfd) -> None:
    (base / "in").mkdir()
    for k in range(2):
        Image.fromarray(PIXELS[:8, :8]).save(base / "in" / f"p{k}.png")
    np.save(base / "in" / "s.npy", PIXELS[:8, :8, 0][None])
    monkeypatch.chdir(base)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = {p.name: p.read_bytes() for p in (base / "in").iterdir()}
    ended: Counter[int] = Counter()

    @cases(count)
    @given(some.integers(0, 2**32))
    def each(seed: int) -> None:
        ended[through_main(seed, prior, base)] += 1
        now = {p.name: p.read_bytes() for p in (base / "in").iterdir() if p.is_file()}
        assert now == before, seed  # what is read is not written

    each()
    with capfd.disabled():
        print(f"\nmutated descriptions: {sum(ended.values())}, by exit status {dict(sorted(ended.items()))}")


def test_mutated_descriptions(prior, tmp_path, monkeypatch, capfd):
    descriptions_of(40, prior, tmp_path, monkeypatch, capfd)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_mutated_descriptions_by_the_thousand(prior, tmp_path, monkeypatch, capfd):
    descriptions_of(10_000, prior, tmp_path, monkeypatch, capfd)


@pytest.mark.parametrize("name", sorted(FILES))
def test_mutated_pictures_through_the_program(name, prior, tmp_path, capfd):
    """A few of each: status 1 with a line for each that failed, 0 if all could be read."""
    (tmp_path / "in").mkdir()
    for seed in range(6):
        data = mutated(FILES[name], random.Random(seed))
        path = tmp_path / "in" / f"{seed}{Path(name).suffix}"
        path.write_bytes(data)
        height, width = [n for n in sources.size(str(path)) or () if isinstance(n, int)][:2] or (1, 1)
        if height * width > 2500:  # a size that has become a thousand times as large is no fault, but takes too long
            path.unlink()
    if Path(name).suffix == ".gif":
        (tmp_path / "in" / "7.png").write_bytes(FILES[name])
    suffix = ".png" if name == "some.gif" else Path(name).suffix
    words = ["restore", f"{tmp_path}/in/*{suffix}", "--out", str(tmp_path / "out")]
    status = main([*words, "--operator", "denoise", "--steps", "1", "--prior", prior, "--threads", "1"])
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    failed = [line for line in lines if line["status"] == "failed"]
    assert status == bool(failed)
    assert all(math.isfinite(line["result"]["residual"]) for line in lines if line["status"] == "done")
    assert not list((tmp_path / "out").rglob(".*"))
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert len([line for line in said.out.splitlines() if line.startswith("failed: ")]) == len(failed)
