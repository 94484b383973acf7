"""Archives and stacks: every picture in them is read as from a file of its own, and nothing else is."""

import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from encoded import encoded
from PIL import Image

from flowhelm.app.batch import description
from flowhelm.app.batch.items import found
from flowhelm.app.batch.request import BatchRequest
from flowhelm.app.batch.run import rerun
from flowhelm.app.errors import BadInput
from flowhelm.app.files import pictures as images
from flowhelm.app.files import stacks as sources
from flowhelm.app.run import drive
from flowhelm.interfaces.cli import main

CHANCE = np.random.default_rng(0)
GREY = CHANCE.integers(0, 256, (3, 8, 12), np.uint8)
DEEP = CHANCE.integers(0, 65536, (2, 8, 12), np.uint16)
COLOUR = CHANCE.integers(0, 256, (2, 8, 12, 3), np.uint8)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(folder: Path, *inputs: str, **more) -> list[str]:
    given = {"inputs": list(inputs), "operator": "denoise", "out": "out"} | more
    return [item.output for item in found(description.filled(BatchRequest.of(given, "job"), folder))]


@pytest.fixture
def stacks(tmp_path) -> Path:
    np.save(tmp_path / "grey.npy", GREY)
    np.savez_compressed(tmp_path / "deep.npz", volume=DEEP, about=np.array(["a text"]))
    members = {
        "d/0001.png": encoded(COLOUR[0]),
        "d/0001.json": b"{}",
        "0002.jpg": encoded(COLOUR[1], "JPEG"),
        ".0003.png": b"",
    }
    archive(tmp_path / "some.tar", members)
    return tmp_path


@pytest.mark.parametrize(("stack", "mode"), [(GREY, "8"), (DEEP, "16"), (COLOUR, "colour")])
def test_a_slice_is_what_its_picture_is(stack, mode, tmp_path):
    np.save(tmp_path / "s.npy", stack)
    Image.fromarray(stack[1]).save(tmp_path / "alone.png")
    for channels in (1, 3):
        one = sources.read(f"{tmp_path}/s.npy:0001", channels=channels)
        other = images.read(tmp_path / "alone.png", channels=channels)
        assert torch.equal(one.pixels, other.pixels)
        assert (one.depth, one.grey) == (other.depth, other.grey)
    if mode == "colour":
        np.save(tmp_path / "first.npy", stack.transpose(0, 3, 1, 2))
        assert torch.equal(
            sources.read(f"{tmp_path}/first.npy:1").pixels,
            other.pixels.new_tensor(0) + sources.read(f"{tmp_path}/s.npy:1").pixels,
        )


def test_a_range(tmp_path):
    values = np.linspace(-1000, 3000, 2 * 8 * 8).reshape(2, 8, 8)
    for kind in (np.float32, np.float64, np.int32):
        np.save(tmp_path / "s.npy", values.astype(kind))
        picture = sources.read(f"{tmp_path}/s.npy:0000", span=(-1000, 3000))
        expected = torch.from_numpy(values[0].astype(kind) / 2000 - 0.5).float().expand(1, 3, 8, 8)
        torch.testing.assert_close(picture.pixels, expected, atol=1e-6, rtol=0)
        assert (picture.depth, picture.grey) == (16, True)
        with pytest.raises(BadInput, match="say which of them are black and white: --range"):
            sources.read(f"{tmp_path}/s.npy:0000")
        with pytest.raises(BadInput, match=r"holds values from .* to 3000; expected 0 to 1; state a wider --range"):
            sources.read(f"{tmp_path}/s.npy:0001", span=(0, 1))
    np.save(tmp_path / "nan.npy", np.full((1, 8, 8), np.nan))
    with pytest.raises(BadInput, match="NaN"):
        sources.read(f"{tmp_path}/nan.npy:0", span=(0, 1))


def test_items(stacks):
    with h5py.File(stacks / "s.h5", "w") as file:
        file["raw/volume"], file["raw/other"], file["numbers"] = GREY, COLOUR, np.arange(3)
    assert names(stacks, "grey.npy") == [f"grey.npy/000{k}.restored.png" for k in range(3)]
    assert names(stacks, "deep.npz") == [
        f"deep.npz/volume/000{k}.restored.png" for k in range(2)
    ]  # the only one of slices
    assert names(stacks, "deep.npz:volume/0001") == ["deep.npz/volume/0001.restored.png"]
    assert names(stacks, "s.h5:raw/volume")[0] == "s.h5/raw/volume/0000.restored.png"
    assert names(stacks, "some.tar") == ["some.tar/d/0001.restored.png", "some.tar/0002.restored.png"]
    assert names(stacks, "*.tar", "*.npy")[1:3] == ["some.tar/0002.restored.png", "grey.npy/0000.restored.png"]
    Image.fromarray(GREY[0]).save(stacks / "p.png")
    assert names(stacks, ".", out="out") == [
        "p.restored.png"
    ]  # a folder's pictures: its stacks are named if they are meant
    assert names(stacks, "gone.npy") == ["gone.restored.png"]  # an item that will fail
    assert names(stacks, "s.h5") == ["s.restored.png"]  # which one of two? it will fail and say so
    with pytest.raises(BadInput, match=r"name one of 's.h5:numbers', 's.h5:raw/other', 's.h5:raw/volume'"):
        sources.read(str(stacks / "s.h5"))


def test_a_batch_of_them(stacks, prior, capsys, refusal):
    with h5py.File(stacks / "s.h5", "w") as file:
        file["v"] = (GREY / 255).astype(np.float32)
    out = stacks / "out"
    words = ["--operator", "denoise", "--steps", "2", "--prior", prior, "--out", str(out), "--threads", "1"]
    given = [str(stacks / name) for name in ("grey.npy", "deep.npz", "some.tar")]
    assert main(["restore", *given, *words, "--rows", "2"]) == 0
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    assert Image.open(out / "deep.npz" / "volume" / "0001.restored.png").mode == "I;16"
    assert Image.open(out / "grey.npy" / "0001.restored.png").mode == "L"
    assert Image.open(out / "some.tar" / "0002.restored.png").mode == "RGB"
    assert main(["restore", str(stacks / "s.h5"), *words]) == 1
    assert "--range" in capsys.readouterr().out
    assert main(["restore", str(stacks / "s.h5"), *words, "--range", "0,1"]) == 0
    assert "3 items: 3 done, 0 failed" in capsys.readouterr().out
    assert (out / "s.h5" / "v" / "0002.restored.png").exists()
    assert drive(rerun(out / "manifest.jsonl", "s.h5/v/0001.restored.png"))
    changed = GREY.copy()
    changed[1, 0, 0] ^= 1
    np.save(stacks / "grey.npy", changed)
    assert main(["restore", *given, *words, "--dry-run"]) == 0
    assert (
        "7 items: 6 done, 0 failed before, 1 to do" in capsys.readouterr().err
    )  # one slice has changed, not the stack
    assert "expected the value of black below that of white" in refusal(
        "restore", str(stacks / "s.h5"), *words, "--range", "1,0"
    )


def test_what_is_no_stack(tmp_path):
    np.save(tmp_path / "flat.npy", GREY[0])
    np.save(tmp_path / "one.npy", COLOUR[0])
    np.save(tmp_path / "wide.npy", np.zeros((2, 8, 8, 5), np.uint8))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((2, 8, 8), complex))
    (tmp_path / "cut.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 99999, 99999), }\n"
    )
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "junk.tar").write_bytes(b"no archive " * 100)
    (tmp_path / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    for name, message in [
        ("flat.npy", "expected one array of slices"),
        ("one.npy", "is one picture of shape"),
        ("wide.npy", r"has slices of shape \(8, 8, 5\)"),
        ("object.npy", "is damaged or no .npy file"),  # never unpickled
        ("complex.npy", "holds values of type complex128"),
        ("cut.npy", "is damaged or no .npy file"),
        ("junk.npz", "is damaged or no .npz file"),
        ("junk.h5", "is damaged or no .h5 file"),
        ("junk.tar", "is truncated or damaged, or no tar archive"),
    ]:
        assert sources.members(str(tmp_path / name)).names == []
        with pytest.raises(BadInput, match=message):
            sources.read(str(tmp_path / name))


def test_an_archive_that_means_harm(tmp_path):
    good = encoded(COLOUR[0])
    for name in ("../up.png", "/top.png", "a/../../up.png"):
        archive(tmp_path / "bad.tar", {"good.png": good, name: good})
        assert names(tmp_path, "bad.tar") == ["bad.tar/good.restored.png", "bad.restored.png"]
        with pytest.raises(BadInput, match="expected a name below the folder"):
            sources.read(str(tmp_path / "bad.tar"))
    whole = archive(tmp_path / "bad.tar", {"1.png": good, "2.png": good}).read_bytes()
    (tmp_path / "bad.tar").write_bytes(whole[:1200])  # within the second
    assert names(tmp_path, "bad.tar") == ["bad.tar/1.restored.png", "bad.restored.png"]
    with pytest.raises(BadInput, match="ends without the mark of its end"):
        sources.read(str(tmp_path / "bad.tar"))
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("secret.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert sources.members(str(tmp_path / "links.tar")).names == []


def test_hdf5_that_points_elsewhere(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(200))
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("v", (2, 8, 8), "u1", external=[(str(tmp_path / "secret"), 0, 128)])
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "v")
    with pytest.raises(BadInput, match="expected one array of slices"):
        sources.read(f"{tmp_path}/s.h5")
    with pytest.raises(BadInput, match="is not there"):
        sources.read(f"{tmp_path}/s.h5:link/0000")


# --- YAML ---

YAML = """
inputs: [in]          # a comment
operator: deblur
operator_options: {sigma: 1.0}
std: 0.05
seeds: [0, 1]
"""


def test_yaml_is_json(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "in").mkdir()
    (tmp_path / "job.yaml").write_text(YAML)
    given = {"inputs": ["in"], "operator": "deblur", "operator_options": {"sigma": 1.0}, "std": 0.05, "seeds": [0, 1]}
    assert description.read_file(tmp_path / "job.yaml") == description.filled(BatchRequest.of(given, "job"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "anchors and aliases are not taken"),
        ("std: 1\nstd: 2\n", "'std' is given twice"),
        ("std: .nan\n", "is not a description of a batch in YAML"),
        ("!!python/object/apply:os.system ['true']\n", "is not a description of a batch in YAML"),
        ("? [1, 2]\n: 3\n", "is not a description of a batch in YAML"),
        ("[" * 5000, "nested too deep"),
        ("when: 2020-01-01\n", "job.yml has no 'when'"),
        ("- 1\n", "expected an object"),
        ("\x00", "is not a description of a batch in YAML"),
    ],
)
def test_yaml_that_is_no_description(text, message, tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "job.yml").write_text(text)
    with pytest.raises(BadInput, match=message):
        description.read_file(tmp_path / "job.yml")


def test_json_that_is_nested_too_deep(tmp_path, refusal):
    (tmp_path / "job.json").write_text("[" * 100_000)
    assert "nested too deep" in refusal("batch", str(tmp_path / "job.json"))
