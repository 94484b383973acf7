"""A photograph of which nothing is said is looked at first."""

import json
import math
import shlex
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import read, to_pil
from flowhelm.app.restore import noise
from flowhelm.app.restore.look import look
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.restorer import Restorer
from flowhelm.app.restore.settle import settle
from flowhelm.app.run import drive
from flowhelm.compression import jpeg_quality, noise_before
from flowhelm.interfaces.cli import main
from flowhelm.known import PHOTOS
from flowhelm.metrics import psnr
from flowhelm.noise_level import one_call
from flowhelm.operators.jpeg import as_noise
from flowhelm.priors import adapters
from flowhelm.priors.bundled import load

ROOT = Path(__file__).parents[2]


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


def test_jpeg_files_are_denoised_by_the_network_that_knows_them(tmp_path, clean):
    to_pil(clean).save(path := tmp_path / "a.jpg", quality=40)

    def of(**given):
        return settle(RestoreRequest(**{"photo": path, "operator": "denoise"} | given))

    found = of()
    assert str(found.adapter) == "jpeg"
    assert found.std == float(f"{math.hypot(as_noise(40), noise_before(path)):.3g}")
    others = (
        {"look": "natural"}, {"method": "pnp_flow"}, {"steps": 8}, {"prior": "photos"}, {"unfade": True},
        {"operator": "jpeg"},
    )  # fmt: skip
    for other in ({"std": 0.1}, *others):
        assert of(**other).adapter is None, other
    to_pil(clean).save(png := tmp_path / "a.png")
    to_pil(clean).save(fine := tmp_path / "fine.jpg", quality=99)
    assert of(photo=png).adapter is None
    assert of(photo=fine).adapter is None


def test_a_folder_of_the_adapters_name_is_not_taken_for_it(tmp_path, clean, monkeypatch):
    to_pil(clean).save(path := tmp_path / "a.jpg", quality=40)
    (tmp_path / "jpeg").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["restore", str(path), "--operator", "denoise"]) == 0


@pytest.mark.parametrize("quality", [50, 90])
def test_stripes_are_no_noise(tmp_path, clean, quality):
    """They have as much fine contrast everywhere, as noise has, but repeat themselves: the adapter would smooth them away."""
    stripes = 0.8 * torch.sign(torch.sin(torch.arange(96) * 3.0)).expand(1, 3, 96, 96)
    white = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    for picture, regular in ((stripes, True), (clean + 0.2 * white, False)):
        to_pil(picture).save(path := tmp_path / "a.jpg", quality=quality)
        assert noise_before(path) > 0.15
        assert settle(RestoreRequest(photo=path, operator="denoise")).adapter == (None if regular else Path("jpeg"))
        if regular:
            error = lambda made, truth=picture: float((made - truth).square().mean().sqrt()) * 127.5  # noqa: E731
            came = read(path).pixels
            assert error(Restorer(threads=1)(path, "denoise").picture[None]) < error(came) + 0.5


@pytest.mark.parametrize("quality", [20, 75])
def test_the_adapter_takes_back_more_than_the_prior_alone(tmp_path, quality):
    """The same through an open prior, where JPEG files and others follow one another."""
    with Image.open(ROOT / "examples" / "coffee.png") as image:
        clean = image.convert("RGB").crop((128, 128, 288, 288))
    clean.save(path := tmp_path / "a.jpg", quality=quality)
    truth = torch.from_numpy(np.asarray(clean).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    restorer = Restorer(threads=1)
    error = lambda made: float(psnr(made, truth))  # noqa: E731
    packed, plain = (restorer(path, "denoise", **more).picture[None] for more in ({}, {"std": as_noise(quality)}))
    came = read(path).pixels
    assert error(packed) > error(plain) + 0.2
    assert error(packed) > error(came) + 0.5
    flow = adapters.applied(load(PHOTOS), "jpeg").sized(160, 160)
    level = restorer.prepare(path, "denoise").settings["std"]
    torch.testing.assert_close(packed, one_call(flow)(came, level), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=f"was made for the weights of {PHOTOS}"):
        adapters.applied(load("photos"), "jpeg")


def test_the_adapter_takes_noise_along_in_a_good_file(tmp_path):
    """Compressed so little that JPEG counts as one level: the adapter is asked for the noise before it, as far as the file tells it."""
    with Image.open(ROOT / "examples" / "coffee.png") as image:
        clean = (
            torch.from_numpy(np.asarray(image.convert("RGB").crop((128, 128, 288, 288))).copy()).permute(2, 0, 1)[None]
            / 127.5
            - 1
        )
    noisy = clean + 9 / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    to_pil(noisy).save(path := tmp_path / "a.jpg", quality=95)
    flow, came = load(PHOTOS).sized(160, 160), read(path).pixels
    found, blocks = noise.of_photo(came, flow, path), as_noise(95)
    assert found.packed
    assert found.std(packed=True) == math.hypot(noise_before(path), blocks) > 3 * blocks
    denoise = one_call(adapters.applied(flow, "jpeg"))
    less, more = (float(psnr(denoise(came, std), clean)) for std in (blocks, found.std(packed=True)))
    assert more > less + 0.3


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
    clean[..., :9, :9], clean[..., :9, 9:18] = -1, 1  # else it would look faded
    to_pil(clean).save(path := tmp_path / "clean.png")
    assert main(["restore", str(path)]) == 0
    assert "nothing is surely wrong" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_what_may_as_well_be_texture_is_no_reason_to_restore(tmp_path, clean):
    """3 levels before quality 95 are not surely noise; at 85 the compression is reason enough, and the network is told both."""
    clean[..., :9, :9], clean[..., :9, 9:18] = -1, 1
    noisy = clean + 3 / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    for quality, operator in ((95, None), (85, "denoise")):
        to_pil(noisy).save(path := tmp_path / "a.jpg", quality=quality)
        assert noise.MUCH < noise_before(path) < noise.SEEN[0]
        assert look(path).operator == operator
        assert look(path).std > noise_before(path)


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


def test_every_door_takes_the_quality_of_the_file(tmp_path, clean):
    from flowhelm import Restorer
    from flowhelm.interfaces.http.work import opened

    to_pil(clean).save(path := tmp_path / "a.jpg", quality=33)
    restorer = Restorer("photos")
    for picture in (path, str(path), Image.open(path), Image.open(BytesIO(path.read_bytes()))):
        assert restorer.prepare(picture, "jpeg").settings["operator_options"]["quality"] == 33
    answer = drive(
        opened({"prior": "photos"}, 10**6, 1e12)(({"operator": "jpeg", "steps": 1}, {"picture": path.read_bytes()}))
    )
    assert answer.settings["operator_options"]["quality"] == 33
    # pixels do not tell it: of a picture that was changed since it was opened, or of a tensor
    for picture in (Image.open(path).resize((48, 48)), clean[0].clamp(-1, 1)):
        with pytest.raises(
            BadInput, match=r"not known, since it is no JPEG file; give the file itself, or quality, from 1"
        ):
            restorer.prepare(picture, "jpeg")
        assert restorer.prepare(picture, "jpeg", operator_options={"quality": 40}).problem
    assert restorer.prepare(clean[0].clamp(-1, 1), "jpeg", simulate=True).settings["operator_options"]["quality"] == 20


def test_every_door_sees_the_noise_before_a_compression(tmp_path, clean):
    from flowhelm import Restorer

    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    to_pil(clean + 0.3 * noise).save(path := tmp_path / "a.jpg", quality=50)
    told = settle(RestoreRequest(photo=path, operator="denoise")).std
    Image.open(path).save(pixels := tmp_path / "pixels.png")
    assert told > 1.2 * settle(RestoreRequest(photo=pixels, operator="denoise")).std
    for picture in (path, Image.open(path)):
        # once more through the same tables changes a few levels
        assert Restorer("photos").prepare(picture, "denoise").settings["std"] == pytest.approx(told, rel=0.02)


def test_every_picture_of_a_batch_has_the_quality_of_its_file(tmp_path, clean):
    folder = tmp_path / "in"
    folder.mkdir()
    for quality in (20, 60):
        to_pil(clean).save(folder / f"{quality}.jpg", quality=quality)
    to_pil(clean).save(folder / "none.png")
    words = ["--operator", "jpeg", "--std", "0.02", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(["restore", str(folder), *words]) == 1  # of the one it is not known
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    found = [line["settings"]["operator_options"]["quality"] for line in lines if "settings" in line]
    assert found == [20, 60]
    assert main(["rerun", str(tmp_path / "out" / "manifest.jsonl"), "--item", "20.jpg"]) == 0


def test_scratches_are_offered_as_a_mask_that_restores(tmp_path, clean, capsys):
    damaged = clean.clamp(-0.7, 0.7)
    damaged[..., 20:22, 10:80] = damaged[..., 10:80, 60:62] = 0.97
    to_pil(damaged).save(path := tmp_path / "scan.png")
    assert main(["look", str(path)]) == 0
    assert "scratches or dust" in (said := capsys.readouterr().out)
    assert f"flowhelm mask {path}" in said
    assert main(["mask", str(path)]) == 0
    said = capsys.readouterr().out
    mask = np.asarray(Image.open(tmp_path / "scan.mask.png"))
    assert mask.shape == (96, 96)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[20:22, 10:80] == 0).mean() > 0.9  # black is missing, as `--operator inpaint --mask` has it
    assert f"{100 * (mask == 0).mean():.2g} % of the picture" in said
    assert Image.open(tmp_path / "scan.overlay.png").mode == "RGB"
    command = next(line for line in said.splitlines() if "flowhelm restore" in line).partition("flowhelm ")[2]
    assert main([*shlex.split(command), "--steps", "2"]) == 0
    made = np.asarray(Image.open(tmp_path / "scan.restored.png")).astype(float)
    whole = np.asarray(to_pil(clean.clamp(-0.7, 0.7))).astype(float)
    before = np.asarray(Image.open(path)).astype(float)
    assert np.square(made - whole).mean() < 0.2 * np.square(before - whole).mean()


def test_no_mask_is_written_of_a_clean_picture_or_under_a_wrong_name(tmp_path, clean, capsys):
    to_pil(clean).save(path := tmp_path / "clean.png")
    assert main(["mask", str(path)]) == 0
    assert "nothing looks like a scratch" in capsys.readouterr().out
    assert main(["mask", str(path), "--out", str(tmp_path / "mask.jpg")]) == 2
    assert "a mask is a .png file" in capsys.readouterr().err
    assert main(["mask", str(path), "--out", str(path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
