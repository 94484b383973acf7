"""--memory: what a picture, a mask, a kernel, a slice or a member would take is told before it is unpacked, and refused above a budget."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import described, lines, made, pictures
from encoded import encoded
from PIL import Image

import flowhelm
from flowhelm import operators, raster
from flowhelm.app.errors import BadInput, TooLarge
from flowhelm.app.files import dataset, stacks
from flowhelm.app.files import pictures as files
from flowhelm.app.models.request import bytes_of
from flowhelm.app.run import drive
from flowhelm.interfaces.cli import main
from flowhelm.interfaces.http.request import Limits
from flowhelm.interfaces.ui.request import PageRequest
from flowhelm.interfaces.worker import allowance, left

LARGE = 2000  # pixels of a side: 64 MB to read, a few kB to store
SMALL = "20MB"


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8e9), ("512MB", 512e6), ("1.5 GiB", 1.5 * 2**30), ("8g", 8e9), ("64 kib", 65536), ("2TB", 2e12)],
)
def test_an_amount_has_a_unit(text, size):
    assert bytes_of(text) == size
    assert raster.amount(bytes_of("8GB")) == "8 GB"


@pytest.mark.parametrize("text", ["8", "", "GB", "-1GB", "0MB", "1e9GB", "nanGB", "8 pounds", "8GBB", "٣GB"])
def test_what_is_no_amount_is_refused(text, refusal):
    words = ["restore", "photo.png", "--operator", "denoise", "--std", "0.1", f"--memory={text}"]
    assert "restore: --memory: expected an amount of memory such as 8GB or 512MB" in refusal(*words)
    for request in (Limits, PageRequest):
        with pytest.raises(BadInput, match="memory: expected an amount"):
            request.of({"memory": text}, "serve")


def large(folder: Path) -> dict[str, str]:
    """Files of a few kilobytes that hold four million pixels, by kind: as they are named to `restore`."""
    blank = Image.new("1", (LARGE, LARGE))
    blank.save(folder / "large.png")
    Image.new("L", (LARGE, LARGE)).save(folder / "large.webp", lossless=True)
    Image.new("L", (LARGE, LARGE)).save(folder / "large.tif", compression="tiff_deflate")
    Image.new("L", (LARGE, LARGE)).save(folder / "large.bmp")
    np.savez_compressed(folder / "large.npz", volume=np.zeros((5, LARGE, LARGE), np.uint8))
    np.save(folder / "large.npy", np.zeros((1, LARGE, LARGE), np.uint8))
    with tarfile.open(folder / "large.tar", "w") as tar:
        tar.add(folder / "large.png", "in/one.png")
    found = {f"large.{kind}": f"large.{kind}" for kind in ("png", "webp", "tif", "bmp")}
    found |= {"large.tar": "large.tar:in/one.png", "large.npz": "large.npz:volume/0001", "large.npy": "large.npy:0000"}
    try:
        import h5py
    except ImportError:
        return found
    with h5py.File(folder / "large.h5", "w") as file:  # small slices, packed in one large chunk
        chunk = (16, LARGE, LARGE // 4)
        file.create_dataset("volume", (16, LARGE, LARGE // 4), "u1", chunks=chunk, compression="gzip")
    return found | {"large.h5": "large.h5:volume/0001"}


def test_every_kind_of_picture_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = large(tmp_path)
    for name, photo in known.items():
        assert stacks.read(photo).pixels.shape[-1] in (LARGE, LARGE // 4), name
    stacks._unpacked.cache_clear()
    monkeypatch.setattr(raster, "_read", None)  # what unpacks
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", None)
    for name, photo in known.items():
        with (
            raster.within(bytes_of(SMALL)),
            pytest.raises(BadInput, match=r"(?s)large.*would take .* of memory") as caught,
        ):
            stacks.read(photo)
        assert "more than the 20 MB that it may; scale it down first, or allow more by --memory" in str(caught.value), (
            name
        )
        assert isinstance(caught.value, TooLarge), name
        if photo != name and not name.endswith(".tar"):  # nor is it listed
            with raster.within(bytes_of(SMALL)):
                names, fault = stacks.members(name)
            assert names == []
            assert "would take" in (fault or ""), name


def test_masks_and_kernels_are_held_to_it_too(tmp_path):
    Image.new("1", (LARGE, LARGE)).save(tmp_path / "m.png")
    np.save(tmp_path / "k.npy", np.ones((LARGE, LARGE), np.float16))
    np.savez_compressed(tmp_path / "k.npz", np.ones((LARGE, LARGE)))
    with raster.within(bytes_of(SMALL)):
        for name in ("m.png", "k.npy", "k.npz"):
            build = operators.inpaint if name == "m.png" else operators.motion
            given = {"mask" if name == "m.png" else "kernel": tmp_path / name}
            with pytest.raises(ValueError, match=rf"{name}.*would take .* MB of memory"):
                build((3, LARGE, LARGE), **given)


def test_a_file_that_is_itself_too_large_is_not_read(tmp_path):
    with open(tmp_path / "a.tif", "wb") as file:
        file.truncate(10**12)  # nothing of it is stored
    with pytest.raises(TooLarge, match=r"a.tif' would take 1 TB of memory"):
        files.read(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="would take 1 TB of memory"):
        operators.inpaint((3, 8, 8), mask=tmp_path / "a.tif")


def test_the_budget_is_of_whoever_asks():
    with raster.within(100.0):
        with raster.within(None), pytest.raises(raster.TooLarge):
            raster.check_cost(101)
        with raster.within(1000.0, "ask for more"):
            raster.check_cost(101)
            with pytest.raises(
                raster.TooLarge, match=r"2 kB of memory, more than the 1 kB that it may; .*, or ask for more"
            ):
                raster.check_cost(2000)
    raster.check_cost(2000)
    with pytest.raises(raster.TooLarge, match="half of what is free"):
        raster.check_cost(1e18)


def test_restore_says_it_in_one_sentence(here, prior, refusal):
    words = ["--operator", "denoise", "--steps", "1", "--prior", prior, "--memory", SMALL]
    Image.new("RGB", (LARGE, LARGE)).save(here / "a.png")
    Image.new("1", (LARGE, LARGE)).save(here / "m.png")
    for std in ("0.1", "auto"):
        said = refusal("restore", "a.png", *words, "--std", std)
        assert "'a.png' would take 64 MB of memory, more than the 20 MB" in said.replace(f"{here}/", "")
        assert "--memory" in said
    Image.new("RGB", (64, 64)).save(here / "b.png")
    said = refusal("restore", "b.png", "--operator", "inpaint", "--mask", "m.png", "--std", "0.1", *words[2:])
    assert "m.png' cannot be read: it would take 64 MB" in said
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "b.png", "m.png"]
    assert main(["restore", "b.png", *words, "--std", "0.1", "--threads", "1"]) == 0
    assert json.loads((here / "b.run.json").read_text())["settings"]["memory"] == SMALL
    assert main(["rerun", "b.run.json"]) == 0


def test_a_batch_goes_on_without_what_would_not_fit_after_a_restart_too(tmp_path, prior):
    folder = pictures(tmp_path / "in", 2)
    Image.new("L", (1500, 1000)).save(folder / "p00a.png")
    Image.new("L", (1500, 1000)).save(folder / "p00b.tif")
    request = described(folder, prior, memory="20MB", steps=1)
    assert not made(request)
    out = Path(request.out or "")
    found = {line["name"]: line for line in lines(out)}
    assert {name: line["status"] for name, line in found.items()} == {
        "p00.png": "done", "p00a.png": "failed", "p00b.tif": "failed", "p01.png": "done",
    }  # fmt: skip
    assert "would take 24 MB of memory, more than the 20 MB" in found["p00a.png"]["reason"]
    assert not made(request)  # nothing is tried again
    assert len(lines(out)) == 4
    # more is allowed: what is done stays, what had failed is made
    small = np.zeros((20, 30), np.uint8)
    Image.fromarray(small).save(folder / "p00a.png")  # of a size that the test has time for
    assert not made(request.changed(memory="22MB"))
    assert [line["name"] for line in lines(out)[4:]] == ["p00a.png", "p00b.tif"]
    assert [line["status"] for line in lines(out)[4:]] == ["done", "failed"]


def test_one_slice_of_a_stack_too_large_is_the_same_item_after_a_restart(tmp_path, prior):
    np.save(tmp_path / "s.npy", np.zeros((2, 1200, 1200), np.uint8))
    folder = pictures(tmp_path / "in", 1)
    inputs = [str(folder / "p00.png"), f"{tmp_path}/s.npy:0001"]
    request = described(folder, prior, memory="20MB", steps=1, inputs=inputs, out=str(tmp_path / "out"))
    assert not made(request)
    assert not made(request)
    assert [line["status"] for line in lines(tmp_path / "out")] == ["done", "failed"]


def test_restorer_has_a_budget(prior, tmp_path):
    restorer = flowhelm.Restorer(prior, threads=1, memory="20MB")
    Image.new("L", (1500, 1000)).save(tmp_path / "a.png")
    with pytest.raises(
        TooLarge,
        match=r"24 MB of memory, more than the 20 MB that it may; scale it down first, or allow more by memory$",
    ):
        restorer(tmp_path / "a.png", "denoise", std=0.1, steps=1)
    with pytest.raises(BadInput, match="24 MB of memory"):
        restorer(torch.zeros(3, 8, 8), "inpaint", std=0.1, steps=1, operator_options={"mask": tmp_path / "a.png"})
    assert restorer(torch.zeros(3, 8, 8), "denoise", std=0.1, steps=1).picture.shape == (3, 8, 8)
    with pytest.raises(BadInput, match="Restorer: memory: expected an amount"):
        flowhelm.Restorer(prior, memory="20")


def test_a_service_holds_uploads_to_what_its_process_may_still_take(prior):
    pytest.importorskip("fastapi")
    import os

    from flowhelm.interfaces.http.work import opened
    from flowhelm.interfaces.worker import held

    assert allowance(Limits.of({"memory": "3GB"}, "serve").budget) == 3e9
    memory = held(os.getpid()) + 100e6
    assert left(memory) <= 100e6
    handle = opened({"prior": prior, "threads": 1}, 10**9, memory)
    wide, small = encoded(Image.new("L", (4000, 4000))), encoded(Image.new("RGB", (16, 16)))
    asked = {"operator": "denoise", "std": 0.1, "steps": 1}
    with pytest.raises(TooLarge, match=r"256 MB of memory, .* or ask for a server with more memory"):
        drive(handle((asked, {"picture": wide})))
    asked = {"operator": "inpaint", "std": 0.1, "steps": 1}
    with pytest.raises(TooLarge, match="256 MB of memory"):
        drive(handle((asked, {"picture": small, "mask": wide})))


def test_pictures_to_measure_with_are_refused_by_name(tmp_path):
    Image.new("L", (LARGE, LARGE)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "c.png").write_bytes(b"nothing")
    (tmp_path / "d.npz").write_bytes(b"PK\3\4")
    np.savez_compressed(tmp_path / "e.npz", images=np.zeros((30, 1000, 1000), np.uint8))

    def read(name):
        where = {"folder": name} if name.endswith("png") else {}
        return dataset.pictures(tmp_path / name if not where else tmp_path, channels=1, size=8, images=1, **where)

    for name, told in {"b.png": "damaged", "c.png": "cannot be read", "d.npz": "expected an .npz"}.items():
        with pytest.raises(BadInput, match=rf"data: .*{told}"):
            read(name)
    assert read("a.png").clean.shape == read("e.npz").clean.shape == (1, 1, 8, 8)
    with raster.within(bytes_of(SMALL)):
        for name in ("a.png", "e.npz"):
            with pytest.raises(BadInput, match=r"would take .* of memory"):
                read(name)
