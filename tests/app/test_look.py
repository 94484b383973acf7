"""A photograph of which nothing is said is looked at first."""

import json

import pytest
import torch
from PIL import Image

from flowhelm.app.files.compression import as_noise, jpeg_quality, noise_before
from flowhelm.app.files.pictures import to_pil
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.settle import settle
from flowhelm.interfaces.cli import main


@pytest.fixture
def clean():
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6
    return torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic")


@pytest.fixture
def noisy(tmp_path, clean):
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    to_pil(clean + 0.12 * noise).save(path := tmp_path / "noisy.png")
    return path


@pytest.mark.parametrize("quality", [1, 20, 50, 75, 95, 100])
def test_the_quality_of_a_jpeg_file_is_read_from_its_tables(tmp_path, clean, quality):
    to_pil(clean).save(path := tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(path) == quality
    to_pil(clean).save(path := tmp_path / "a.png")
    assert jpeg_quality(path) is None


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"grey": True}, {"progressive": True}])
@pytest.mark.parametrize(("quality", "levels"), [(95, 5), (75, 10), (75, 30), (50, 20)])
def test_noise_before_a_compression_is_found_in_the_file(tmp_path, clean, quality, levels, how):
    """Where rounding has killed most of it, too."""
    wide = torch.nn.functional.interpolate(clean * 0.6, (256, 256), mode="bicubic")
    noise = torch.randn(wide.shape, generator=torch.Generator().manual_seed(1))
    options = dict(how)
    grey = options.pop("grey", False)
    y = (wide + levels / 127.5 * noise)[:, : 1 if grey else 3]
    to_pil(y).save(path := tmp_path / "a.jpg", quality=quality, **options)
    assert noise_before(path) * 127.5 == pytest.approx(levels, rel=0.12)


def test_a_compressed_picture_without_noise_has_none(tmp_path, clean):
    wide = torch.nn.functional.interpolate(clean, (256, 256), mode="bicubic")
    for quality in (95, 75, 50):
        to_pil(wide).save(path := tmp_path / "a.jpg", quality=quality)
        assert noise_before(path) < 0.75 * as_noise(quality) + 3.5 / 127.5
    to_pil(wide).save(path := tmp_path / "a.png")
    assert noise_before(path) == 0


def test_jpeg_is_undone_at_the_quality_of_the_file(tmp_path, clean):
    to_pil(clean).save(path := tmp_path / "a.jpg", quality=33)
    assert settle(RestoreRequest(photo=path, operator="jpeg")).operator_options.quality == 33
    told = RestoreRequest(photo=path, operator="jpeg", operator_options={"quality": 50})
    assert settle(told).operator_options.quality == 50


def test_looking_says_the_line_and_restoring_takes_it(noisy, capsys):
    assert main(["look", str(noisy)]) == 0
    assert "noise 0.1" in (said := capsys.readouterr().out)
    assert f"flowhelm restore {noisy} --operator denoise" in said
    assert main(["restore", str(noisy)]) == 0
    run = json.loads(noisy.with_name("noisy.run.json").read_text())["settings"]
    assert run["operator"] == "denoise"
    assert run["std"] == pytest.approx(0.12, rel=0.06)
    assert main(["rerun", str(noisy.with_name("noisy.run.json"))]) == 0  # the same bits


def test_a_good_photograph_is_left_alone(tmp_path, clean, capsys):
    to_pil(clean).save(path := tmp_path / "clean.png")
    assert main(["restore", str(path)]) == 0
    assert "nothing is surely wrong" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_every_picture_of_a_batch_has_its_own_noise(tmp_path, clean):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, std in (("a", 0.05), ("b", 0.2)):
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        to_pil(clean * 0.4 + std * noise).save(folder / f"{name}.png")
    command = ["restore", str(folder), "--operator", "denoise", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    found = [line["settings"]["std"] for line in lines]
    assert found == [pytest.approx(0.05, rel=0.08), pytest.approx(0.2, rel=0.08)]
    before = (tmp_path / "out" / "manifest.jsonl").read_text()
    assert main(command) == 0
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == before


def test_a_restorer_estimates_too(noisy):
    from flowhelm import Restorer

    made = Restorer("photos")(Image.open(noisy), "denoise", steps=1)
    assert made.settings["std"] == pytest.approx(0.12, rel=0.06)
    assert made.settings["estimated"]
