"""A faded print has its black and white again; other pictures keep their colours."""

import json

import numpy as np
import pytest
import torch

from flowhelm import Restorer
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import read, to_pil
from flowhelm.app.restore.look import look
from flowhelm.bench.quality.chain import unasked
from flowhelm.bench.quality.fade import colour_error, lab
from flowhelm.fade import LEAN, curve_of, is_sure, sentence, unfaded
from flowhelm.interfaces.cli import main


@pytest.fixture
def clean():
    """Colours with black and white among them."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = torch.nn.functional.interpolate(coarse, (80, 96), mode="bicubic").clamp(-1, 1)
    picture[..., :10, :10], picture[..., :10, 10:20] = -1, 1
    return picture


def worn(clean, low=(0.24, 0.2, 0.28), high=(0.85, 0.8, 0.72)):
    low, high = (torch.tensor(each)[:, None, None] for each in (low, high))
    return (low + (high - low) * (clean / 2 + 0.5)) * 2 - 1


def test_what_fading_did_to_both_ends_is_undone(clean):
    faded = worn(clean)
    curve = curve_of(faded)
    assert is_sure(curve)
    for (low, high), a, b in zip(curve, (0.24, 0.2, 0.28), (0.85, 0.8, 0.72), strict=True):
        assert (low / 2 + 0.5, high / 2 + 0.5) == (pytest.approx(a, abs=0.015), pytest.approx(b, abs=0.015))
    assert colour_error(unfaded(faded, curve), clean) < 0.15 * colour_error(faded, clean)
    assert sentence(curve).startswith("the fading was undone: contrast times red 1.59")


@pytest.mark.parametrize(
    ("low", "high"), [((0,) * 3, (1,) * 3), ((0.3,) * 3, (1,) * 3), ((0,) * 3, (0.6,) * 3), ((0.06,) * 3, (0.93,) * 3)]
)
def test_a_picture_that_has_a_black_or_a_white_is_left_alone(clean, low, high):
    assert curve_of(worn(clean, low, high)) is None
    assert unfaded(clean, None) is clean


def test_no_channel_leaves_the_others_far_behind_and_no_contrast_grows_without_end(clean):
    curve = torch.tensor(curve_of(worn(clean, (0.1, 0.2, 0.6), (0.8, 0.7, 0.65)))) / 2 + 0.5
    assert curve[2, 0] == pytest.approx(0.2 + LEAN - 0.01, abs=0.02)
    flat = torch.tensor(curve_of(worn(clean, (0.5,) * 3, (0.55,) * 3)))
    assert (2 / (flat[:, 1] - flat[:, 0])).max() <= 3.001


def test_lab_is_that_of_scikit_image(clean):
    color = pytest.importorskip("skimage.color")
    expected = color.rgb2lab((clean[0].double().numpy().transpose(1, 2, 0) + 1) / 2)
    np.testing.assert_allclose(lab(clean)[0].numpy().transpose(1, 2, 0), expected, atol=0.01)


def test_every_door_undoes_it_and_a_run_is_repeated_to_the_bit(tmp_path, clean, capsys):
    to_pil(worn(clean)).save(path := tmp_path / "print.png")
    out = tmp_path / "out.png"
    assert main(["restore", str(path), "--unfade", "--out", str(out)]) == 0
    assert "the fading was undone" in capsys.readouterr().out
    assert colour_error(read(out).pixels, clean) < 0.3 * colour_error(worn(clean), clean)
    run = tmp_path / "out.run.json"
    assert json.loads(run.read_text())["settings"]["operator"] == "denoise"
    assert main(["rerun", str(run)]) == 0
    made = Restorer()(str(path), "denoise", unfade=True)
    assert json.loads(run.read_text())["result"]["sha256"] == made.sha256
    capsys.readouterr()
    assert main(["look", str(path)]) == 0
    said = capsys.readouterr().out
    assert "faded" in said
    assert f"flowhelm restore {path} --unfade" in said


def test_the_noise_of_a_faded_picture_is_that_of_the_picture_as_it_is(tmp_path, clean):
    """Without --unfade nothing is stretched, so the noise that was seen in the stretched picture does not count; the tables agree."""
    noisy = worn(clean, (0.34, 0.3, 0.38), (0.7, 0.66, 0.6)) + 0.04 * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(1)
    )
    to_pil(noisy).save(path := tmp_path / "print.png")
    seen = look(path)
    assert (seen.faded, seen.operator, seen.sure) == (True, "denoise", None)
    assert main(["restore", str(path), "--out", str(tmp_path / "out.png")]) == 0
    std = json.loads((tmp_path / "out.run.json").read_text())["settings"]["std"]
    assert std == pytest.approx(0.04, rel=0.25)
    assert seen.std > 1.3 * std
    picture, _ = unasked(Restorer(threads=1), path)
    assert torch.equal(to_levels(picture), to_levels(read(tmp_path / "out.png").pixels[0]))


def to_levels(picture):
    return ((picture.clamp(-1, 1) + 1) * 127.5).round()


def test_each_picture_of_a_batch_has_its_own(tmp_path, clean):
    folder = tmp_path / "in"
    folder.mkdir()
    to_pil(worn(clean)).save(folder / "faded.png")
    to_pil(clean).save(folder / "clean.png")
    out = tmp_path / "out"
    assert main(["restore", str(folder), "--operator", "denoise", "--std", "0.01", "--unfade", "--out", str(out)]) == 0
    lines = [json.loads(line)["settings"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {line["photo"].rpartition("/")[2]: bool(line["curve"]) for line in lines} == {
        "faded.png": True,
        "clean.png": False,
    }


def test_a_simulation_has_not_faded(clean):
    with pytest.raises(BadInput, match="leave it out with simulate"):
        Restorer().prepare(clean[0], "denoise", unfade=True, simulate=True)
