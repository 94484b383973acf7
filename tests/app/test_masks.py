"""Masks on the command line: the photograph's own transparency, soft ones, and what is said of them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowhelm.app.errors import BadInput
from flowhelm.app.restore.restorer import Restorer
from flowhelm.interfaces.cli import main


def masked(prior, *words: str) -> int:
    usual = ["--std", "0.05", "--steps", "2", "--prior", prior, "--method", "pnp_flow", "--operator", "inpaint"]
    return main(["restore", "photo.png", *usual, *words])


def levels_of(name: str) -> np.ndarray:
    return np.asarray(Image.open(name)).astype(float)


@pytest.fixture
def erased(photo) -> np.ndarray:
    """What is transparent in the photograph, as an eraser leaves it."""
    pixels = np.dstack([np.asarray(Image.open(photo)), np.full((32, 32), 255, np.uint8)])
    pixels[5:15, 8:20, 3] = 0
    Image.fromarray(pixels).save(photo)
    return pixels[..., 3] == 0


def test_the_photographs_own_transparency_is_the_mask(erased, prior, capsys, refusal):
    Image.fromarray((~erased * 255).astype(np.uint8)).save("m.png")
    assert masked(prior, "--mask", "m.png", "--out", "a.png") == 0
    assert masked(prior, "--mask", "alpha", "--out", "b.png") == 0
    assert "11.7 % of the picture counts as missing" in capsys.readouterr().out
    assert Image.open("b.png").mode == "RGB"  # what was filled in is seen
    assert np.array_equal(levels_of("b.png"), levels_of("a.png")[..., :3])
    assert main(["rerun", "b.run.json"]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    Image.open("a.png").convert("RGB").save("photo.png")
    assert "--mask alpha: nothing in the photograph is transparent" in refusal(
        "restore", "photo.png", "--operator", "inpaint", "--mask", "alpha", "--prior", prior
    )


def test_in_a_batch_each_picture_is_its_own_mask(erased, prior):
    Path("in").mkdir()
    whole = Image.open("photo.png")
    whole.save("in/a.png")
    whole.transpose(Image.Transpose.ROTATE_180).save("in/b.png")
    usual = ["--std", "0.05", "--steps", "2", "--prior", prior, "--method", "pnp_flow", "--operator", "inpaint"]
    assert main(["restore", "in", *usual, "--mask", "alpha", "--keep", "--out", "out"]) == 0
    for name, missing in (("a", erased), ("b", erased[::-1, ::-1])):
        moved = np.abs(levels_of(f"out/{name}.restored.png") - levels_of(f"in/{name}.png")[..., :3]).max(2)
        assert moved[missing].mean() > 20, name
        assert moved[~missing].max() <= 1, name


def test_a_soft_mask_blends(photo, prior, capsys):
    soft = np.zeros((32, 32), np.uint8)
    soft[:, 8:24] = np.linspace(0, 255, 16).astype(np.uint8)
    soft[:, 24:] = 255
    Image.fromarray(soft).save("soft.png")
    Image.fromarray((soft >= 128).astype(np.uint8) * 255).save("hard.png")
    assert masked(prior, "--mask", "hard.png", "--out", "hard.out.png") == 0
    assert masked(prior, "--mask", "soft.png", "--out", "soft.out.png") == 0
    weight = (soft / 255.0)[..., None]
    edge = (weight > 0.03) & (weight < 0.97)
    want = np.where(
        edge, weight * levels_of("photo.png") + (1 - weight) * levels_of("hard.out.png"), levels_of("hard.out.png")
    )
    assert np.abs(levels_of("soft.out.png") - want).max() <= 1
    assert np.abs(levels_of("soft.out.png") - levels_of("hard.out.png")).max() > 5  # it is no hard mask


def test_the_missing_share_is_said_and_a_mask_that_may_be_inverted_warns(photo, prior, capsys):
    mask = np.zeros((32, 32), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save("m.png")
    assert masked(prior, "--mask", "m.png") == 0
    said = capsys.readouterr().out
    assert "75 % of the picture counts as missing" in said
    assert "give --invert-mask" in said
    assert masked(prior, "--mask", "m.png", "--invert-mask", "true") == 0  # as the warning spells it
    said = capsys.readouterr().out
    assert "25 % of the picture counts as missing" in said
    assert "--invert-mask" not in said


def test_in_python_the_transparency_is_given_itself(erased, prior):
    image, restorer = Image.open("photo.png"), Restorer(prior)
    how = {"method": "pnp_flow", "std": 0.05, "steps": 2}
    with pytest.raises(BadInput, match="getchannel"):
        restorer(image, "inpaint", operator_options={"mask": "alpha"}, **how)
    made = restorer(image, "inpaint", operator_options={"mask": image.getchannel("A")}, **how)
    assert masked(prior, "--mask", "alpha", "--out", "b.png") == 0
    shown = ((made.picture.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).round().numpy()
    assert np.abs(shown - levels_of("b.png")).max() <= 1


_WORDS = "--std 0.05 --steps 2 --method pnp_flow --operator inpaint --mask alpha --threads 1"
USUAL = _WORDS.split()


def test_the_transparency_of_a_page_is_that_pages(erased, prior, capsys):
    """Neither of the file's first page nor of its largest."""
    whole = Image.open("photo.png")
    opaque = Image.fromarray(np.dstack([np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 255, np.uint8)]))
    opaque.save("pages.tif", save_all=True, append_images=[whole, whole.transpose(Image.Transpose.ROTATE_180)])
    whole.save("photo.png")
    assert main(["restore", "photo.png", *USUAL, "--prior", prior, "--out", "alone.png"]) == 0
    assert main(["restore", "pages.tif", *USUAL, "--prior", prior, "--page", "2", "--out", "page.png"]) == 0
    assert np.array_equal(levels_of("page.png"), levels_of("alone.png"))
    assert main(["rerun", "page.run.json"]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    # a batch takes that page of each, and says what it takes
    Path("in").mkdir()
    Path("pages.tif").rename("in/pages.tif")
    assert main(["restore", "in", *USUAL, "--prior", prior, "--page", "3", "--out", "out"]) == 0
    assert "pages.tif holds 3 pages; page 3 is read" in " ".join(capsys.readouterr().out.split())
    moved = np.abs(levels_of("out/pages.restored.png") - np.asarray(whole.rotate(180)).astype(float)[..., :3]).max(2)
    assert moved[erased[::-1, ::-1]].mean() > 20


def test_a_member_of_an_archive_is_its_own_mask(erased, prior, capsys):
    whole, plain = Image.open("photo.png"), Image.open("photo.png").convert("RGB")
    with tarfile.open("s.tar", "w") as tar:
        for name, image in (("a/one.png", whole), ("b.png", whole.rotate(180)), ("plain.png", plain)):
            image.save(data := io.BytesIO(), "PNG")
            (info := tarfile.TarInfo(name)).size = len(data.getvalue())
            data.seek(0)
            tar.addfile(info, data)
    assert main(["restore", "s.tar", *USUAL, "--prior", prior, "--keep", "--out", "out"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "2 done, 1 failed" in said
    lines = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    failed = [line for line in lines if line["status"] == "failed"]
    assert [line["name"] for line in failed] == ["s.tar:plain.png"]
    assert "--mask alpha: nothing in the photograph is transparent" in failed[0]["reason"]
    for name, image in (("a/one", whole), ("b", whole.rotate(180))):
        before, missing = np.asarray(image).astype(float), np.asarray(image)[..., 3] == 0
        moved = np.abs(levels_of(f"out/s.tar/{name}.restored.png") - before[..., :3]).max(2)
        assert moved[missing].mean() > 20, name
        assert moved[~missing].max() <= 1, name
    assert main(["rerun", "out/manifest.jsonl", "--item", "s.tar:b.png"]) == 0
    assert "identical to the bit" in capsys.readouterr().out
    assert main(["restore", "s.tar", *USUAL, "--prior", prior, "--keep", "--out", "out"]) == 1  # nothing is made again
    assert len(Path("out/manifest.jsonl").read_text().splitlines()) == 3
    assert main(["restore", "s.tar:b.png", *USUAL, "--prior", prior, "--keep", "--out", "one"]) == 0


def test_a_slice_has_no_transparency(photo, prior, capsys):
    np.save("s.npy", np.zeros((2, 16, 16), np.uint8))
    assert main(["restore", "s.npy", *USUAL, "--prior", prior, "--out", "out"]) == 1
    lines = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {
        "--mask alpha: nothing in the photograph is transparent; give a mask as a picture of its own"
    }
