"""A blur of which nothing is said is estimated, said, and written down in numbers."""

import json
import math

import pytest
import torch
from PIL import Image

from flowhelm import operators
from flowhelm.app.errors import BadInput
from flowhelm.app.files.pictures import Picture, to_pil
from flowhelm.app.restore import blur, noise, presets
from flowhelm.app.restore import look as looking
from flowhelm.app.restore.look import look
from flowhelm.app.restore.noise import Level
from flowhelm.app.restore.request import RestoreRequest
from flowhelm.app.restore.settle import settle
from flowhelm.blur_kind import Found
from flowhelm.interfaces.cli import main
from flowhelm.operators.blur import kernel_of

SIDE = 128


def scene(side=SIDE + 40):
    """A picture whose power falls with the frequency, as that of photographs does."""
    white = torch.randn(3, side, side, generator=torch.Generator().manual_seed(2))
    white = 0.8 * white[:1] + 0.3 * white
    radius = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)).clamp(min=1 / side)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * radius**-1.3, s=(side, side))
    return 0.3 * field / field.std()


@pytest.fixture
def blurred(tmp_path):
    def made(name="photo.png", std=0.01, **options):
        kernel = kernel_of(**options)
        y = torch.nn.functional.conv2d(scene()[:, None], kernel.flip(0, 1)[None, None])[:, 0]
        y = y[:, 10 : 10 + SIDE, 10 : 10 + SIDE]
        y = y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        to_pil(y[None]).save(path := tmp_path / name)
        return path

    return made


@pytest.mark.parametrize(
    ("true", "typed"),
    [
        ({"kernel": "disc", "sigma": 1.5}, {"kernel": "auto", "sigma": "auto"}),
        ({"kernel": "line", "sigma": 2.0, "angle": 30.0}, {"kernel": "auto"}),
        ({"kernel": "line", "sigma": 2.0, "angle": 30.0}, {"kernel": "line", "sigma": "auto", "angle": 30.0}),
    ],
)
def test_the_settings_hold_the_blur_in_numbers(blurred, true, typed):
    request = RestoreRequest(photo=blurred(**true), operator="deblur", operator_options=typed, std=0.01)
    settings = settle(request)
    found = settings.operator_options
    assert settings.blurred == "believed"
    assert found.kernel == true.get("kernel", "gaussian")
    assert found.sigma == pytest.approx(true["sigma"], rel=0.12)  # photographs are taken to be soft by themselves
    assert found.angle == pytest.approx(true.get("angle", 0.0), abs=4)


def test_what_is_given_is_not_estimated(blurred):
    told = {"kernel": "disc", "sigma": 2.5}
    settings = settle(RestoreRequest(photo=blurred(sigma=1.0), operator="deblur", operator_options=told, std=0.01))
    assert settings.blurred is None
    assert (settings.operator_options.kernel, settings.operator_options.sigma) == ("disc", 2.5)


def compressed(photo, quality):
    """The same picture as a JPEG file."""
    Image.open(photo).save(path := photo.with_suffix(".jpg"), quality=quality)
    return path


@pytest.mark.parametrize(("level", "quality"), [(3, 95), (3, 100)])
def test_the_noise_below_a_compression_counts_where_a_blur_is_taken_back(blurred, level, quality):
    """Rounded away, it is not seen in the pixels; a blur taken back as if there were none would ring."""
    photo = compressed(blurred(sigma=1.5, std=level / 127.5), quality)
    settings = settle(RestoreRequest(photo=photo, operator="deblur", operator_options={"sigma": 1.5}))
    assert 0.8 * level < settings.std * 127.5 < 2 * level
    seen = look(photo)
    assert seen.operator == "deblur"
    assert seen.options["sigma"] == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize(("level", "quality"), [(0, 90), (0, 60), (10, 80), (0, 12)])
def test_a_compression_is_no_blur(blurred, level, quality):
    assert look(compressed(blurred(sigma=0.3, std=level / 127.5), quality)).operator != "deblur"


@pytest.mark.parametrize(
    ("sigma", "share", "quality", "named"),
    [
        (1.0, 0.012, 70, False),  # sharp photographs have so much
        (1.0, 0.012, None, True),
        (1.0, 0.012, 95, True),
        (1.0, 0.02, 70, True),
        (5.0, 0.03, 70, False),
        (5.0, 0.05, 70, True),
    ],
)
@pytest.mark.parametrize("side", [128, 256])
def test_what_jpeg_rounds_away_must_be_outdone_by_the_evidence_of_a_blur(
    sigma, share, quality, named, side, monkeypatch
):
    """Its evidence is in nats, which grow with the picture."""
    found = Found("line", sigma, 30.0, share * side**2)
    monkeypatch.setattr(blur, "blur_kind", lambda *_: found)
    picture = Picture(torch.zeros(1, 3, side, side))
    assert (blur.seen(picture, 0.01, None, quality) is not None) == named


def test_restoring_says_it_and_a_rerun_gives_the_same_bits(blurred, capsys):
    path = blurred(sigma=1.5)
    assert main(["restore", str(path), "--operator", "deblur", "--kernel", "auto", "--steps", "1"]) == 0
    assert "blurred by a Gaussian of 1." in "".join(capsys.readouterr())
    run = path.with_name("photo.run.json")
    kept = json.loads(run.read_text())["settings"]["operator_options"]
    assert kept["kernel"] == "gaussian"
    assert kept["sigma"] == pytest.approx(1.5, rel=0.12)
    assert main(["rerun", str(run)]) == 0


def test_looking_names_the_blur_and_the_line(blurred, capsys):
    assert main(["look", str(path := blurred(kernel="disc", sigma=1.5))]) == 0
    said = capsys.readouterr().out
    assert "out of focus by a disc of radius" in said
    assert f"flowhelm restore {path} --operator deblur --kernel disc --sigma 1." in said


def test_momentum_is_for_a_blur_that_is_known_or_has_noise(blurred, capsys):
    """Without noise what does not fit is the estimate's error, by whatever door it comes; what a person says of the method holds."""
    path = blurred(sigma=1.5, std=0.003)

    def momentum(*words):
        assert main(["restore", str(path), *words, "--steps", "1"]) == 0
        return json.loads(path.with_name("photo.run.json").read_text())["settings"]["method_options"]["momentum"]

    known = presets.TABLE["deblur"][1]["momentum"]
    assert momentum("--operator", "deblur", "--sigma", "1.5") == known > 0
    assert momentum("--operator", "deblur", "--sigma", "auto") == 0
    assert momentum("--operator", "deblur", "--kernel", "auto", "--momentum", "0.2") == 0.2
    assert momentum() == 0
    assert main(["look", str(path)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("flowhelm restore"))
    assert line.endswith(" --momentum 0")
    assert momentum(*line.split()[3:]) == 0
    assert look(path).method_options == {"momentum": 0}
    path = blurred(sigma=1.5, std=0.03)
    assert momentum("--operator", "deblur", "--sigma", "auto") == momentum() == known
    assert look(path).method_options == {}
    path = blurred(sigma=1.5, std=0.003)
    assert main(["restore", str(path), "--method", "fig", "--steps", "2"]) == 0  # which has no momentum


@pytest.mark.parametrize(("std", "momentum"), [(0.00996, 0.0), (0.01004, 0.0), (0.01006, 0.4)])
def test_both_doors_take_the_same_level_for_unseen(blurred, monkeypatch, std, momentum):
    """Told with three figures, 0.01004 is 0.01: the line that is offered does what the command does."""
    for module in (noise, looking):
        monkeypatch.setattr(module, "of_photo", lambda *_: Level(std))
    path = blurred(sigma=1.5)
    settings = settle(RestoreRequest(photo=path, operator="deblur", operator_options={"sigma": "auto"}))
    assert settings.method_options.momentum == momentum
    assert (presets.TABLE["deblur"][1] | look(path).method_options)["momentum"] == momentum


def test_a_sharp_picture_is_hardly_sharpened_and_it_is_said(blurred, capsys):
    path = blurred(sigma=0.05)
    assert main(["restore", str(path), "--operator", "deblur", "--sigma", "auto", "--steps", "1"]) == 0
    assert "no blur is seen" in "".join(capsys.readouterr())
    assert json.loads(path.with_name("photo.run.json").read_text())["settings"]["operator_options"]["sigma"] <= 0.5


def test_every_picture_of_a_batch_has_its_own_blur(blurred, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, sigma in (("a", 1.0), ("b", 2.0)):
        blurred(f"in/{name}.png", sigma=sigma)
    command = [
        "restore", str(folder), "--operator", "deblur", "--sigma", "auto", "--steps", "1", "--out",
        str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    manifest = tmp_path / "out" / "manifest.jsonl"
    found = [json.loads(line)["settings"]["operator_options"]["sigma"] for line in manifest.read_text().splitlines()]
    assert found == [pytest.approx(1.0, rel=0.15), pytest.approx(2.0, rel=0.15)]
    before = manifest.read_text()
    assert main(command) == 0
    assert manifest.read_text() == before


def test_a_restorer_estimates_too(blurred):
    from flowhelm import Restorer

    made = Restorer("photos")(Image.open(blurred(sigma=1.5)), "deblur", operator_options={"sigma": "auto"}, steps=1)
    assert made.settings["blurred"] == "believed"
    assert made.settings["operator_options"]["sigma"] == pytest.approx(1.5, rel=0.12)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"simulate": True, "operator_options": {"sigma": "auto"}}, "the blur is what you say"),
        ({"operator_options": {"kernel": "auto", "sigma": 2.0}}, "leave out --sigma"),
    ],
)
def test_what_cannot_be_estimated_is_refused(blurred, more, said):
    with pytest.raises(BadInput, match=said):
        settle(RestoreRequest(photo=blurred(sigma=1.0), operator="deblur", std=0.01, **more))


def test_a_picture_that_is_too_small_is_refused(tmp_path):
    Image.new("RGB", (20, 20)).save(path := tmp_path / "tiny.png")
    with pytest.raises(BadInput, match="at least 32 x 32"):
        settle(RestoreRequest(photo=path, operator="deblur", operator_options={"sigma": "auto"}, std=0.01))


def test_an_operator_is_made_of_numbers_alone():
    with pytest.raises(ValueError, match="estimated from a photograph"):
        operators.deblur((3, 32, 32), sigma="auto")
    assert operators.clean_shape(operators.deblur, (3, 40, 40), {"kernel": "disc", "sigma": 1.5}) == (3, 46, 46)
    reach = 2 * math.ceil(math.sqrt(12) * 2 / 2)
    assert operators.clean_shape(operators.deblur, (3, 40, 40), {"kernel": "line", "sigma": 2.0}) == (
        3,
        40 + reach,
        40 + reach,
    )


def test_presets_of_gaussians_stay_theirs():
    """The options that `deblur` has got since are at their defaults in them."""
    old = {"sigma": 1.0, "border": "circular"}
    new = old | {"kernel": "gaussian", "angle": 0.0}
    assert presets.settings("dps", "deblur", old, 0.05, "photos") == presets.settings(
        "dps", "deblur", new, 0.05, "photos"
    )
    assert presets.settings("dps", "deblur", new, 0.05, "photos").origin == "preset"
    assert presets.settings("dps", "deblur", new | {"kernel": "disc"}, 0.05, "photos").origin == "default"
